// CRC-32C by an instruction that folds eight bytes, in three cycles but one a cycle: three blocks run side by side.
// Fold defines word(crc, uint64) and byte(crc, uint8); it lives in an unnamed namespace of the file with the flags.
#pragma once

#include <cstddef>
#include <cstdint>

namespace likewise {

template <class Fold, int streams>
inline void crc32c_side_by_side(const uint8_t* data, size_t n_bytes, uint32_t* out) {
  uint64_t crc[streams];
  for (int s = 0; s < streams; ++s) crc[s] = 0xFFFFFFFFU;
  size_t i = 0;
  for (; i + 8 <= n_bytes; i += 8) {
    for (int s = 0; s < streams; ++s) {
      uint64_t word = 0;
      __builtin_memcpy(&word, data + s * n_bytes + i, 8);
      crc[s] = Fold::word(crc[s], word);
    }
  }
  for (; i < n_bytes; ++i) {
    for (int s = 0; s < streams; ++s) crc[s] = Fold::byte(crc[s], data[s * n_bytes + i]);
  }
  for (int s = 0; s < streams; ++s) out[s] = ~static_cast<uint32_t>(crc[s]);
}

template <class Fold>
inline void crc32c_streams(const uint8_t* data, size_t n_bytes, size_t n_streams, uint32_t* out) {
  size_t s = 0;
  for (; s + 3 <= n_streams; s += 3) crc32c_side_by_side<Fold, 3>(data + s * n_bytes, n_bytes, out + s);
  for (; s < n_streams; ++s) crc32c_side_by_side<Fold, 1>(data + s * n_bytes, n_bytes, out + s);
}

}  // namespace likewise
