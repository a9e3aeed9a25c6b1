#include <arm_acle.h>

#include "crc32c_streams.h"
#include "simd.h"

namespace likewise {
namespace {

struct Arm {
  static uint64_t word(uint64_t crc, uint64_t bytes) { return __crc32cd(static_cast<uint32_t>(crc), bytes); }
  static uint64_t byte(uint64_t crc, uint8_t byte) { return __crc32cb(static_cast<uint32_t>(crc), byte); }
};

}  // namespace

void crc32c_arm(const uint8_t* data, size_t n_bytes, size_t n_streams, uint32_t* out) {
  crc32c_streams<Arm>(data, n_bytes, n_streams, out);
}

}  // namespace likewise
