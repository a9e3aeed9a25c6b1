#include "crc32c.h"

#include <array>
#include <cstring>

#include "simd.h"

namespace likewise {
namespace {

constexpr uint32_t polynomial = 0x82F63B78U;

using Table = std::array<std::array<uint32_t, 256>, 8>;

// Table s holds the checksum of a byte that s zero bytes follow: eight bytes are folded with eight look-ups.
constexpr Table make_table() {
  Table table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? polynomial : 0U);
    table[0][byte] = crc;
  }
  for (size_t s = 1; s < table.size(); ++s) {
    for (size_t byte = 0; byte < 256; ++byte) {
      const uint32_t before = table[s - 1][byte];
      table[s][byte] = (before >> 8) ^ table[0][before & 0xFFU];
    }
  }
  return table;
}

constexpr Table folds = make_table();

}  // namespace

void crc32c_table(const uint8_t* data, size_t n_bytes, size_t n_streams, uint32_t* out) {
  for (size_t s = 0; s < n_streams; ++s, data += n_bytes) {
    uint32_t crc = 0xFFFFFFFFU;
    size_t i = 0;
    for (; i + 8 <= n_bytes; i += 8) {
      uint32_t next = 0;
      for (unsigned byte = 0; byte < 4; ++byte) {
        next ^= folds[7 - byte][((crc >> (8 * byte)) ^ data[i + byte]) & 0xFFU] ^ folds[3 - byte][data[i + 4 + byte]];
      }
      crc = next;
    }
    for (; i < n_bytes; ++i) crc = (crc >> 8) ^ folds[0][(crc ^ data[i]) & 0xFFU];
    out[s] = ~crc;
  }
}

void crc32c(std::span<const uint8_t> data, size_t block_bytes, std::span<uint32_t> out) {
  const size_t n_whole = data.size() / block_bytes;
  const Crc32cStreams checksum = simd().crc32c;
  checksum(data.data(), block_bytes, n_whole, out.data());
  const size_t rest = data.size() - n_whole * block_bytes;
  if (rest != 0) checksum(data.data() + n_whole * block_bytes, rest, 1, out.data() + n_whole);
}

}  // namespace likewise
