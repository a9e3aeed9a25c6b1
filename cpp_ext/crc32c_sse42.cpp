#include <nmmintrin.h>

#include "crc32c_streams.h"
#include "simd.h"

namespace likewise {
namespace {

struct Sse42 {
  static uint64_t word(uint64_t crc, uint64_t bytes) { return _mm_crc32_u64(crc, bytes); }
  static uint64_t byte(uint64_t crc, uint8_t byte) { return _mm_crc32_u8(static_cast<uint32_t>(crc), byte); }
};

}  // namespace

void crc32c_sse42(const uint8_t* data, size_t n_bytes, size_t n_streams, uint32_t* out) {
  crc32c_streams<Sse42>(data, n_bytes, n_streams, out);
}

}  // namespace likewise
