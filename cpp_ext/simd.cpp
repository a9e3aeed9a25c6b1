#include "simd.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace likewise {
namespace {

#if defined(__x86_64__)

struct Cpu {
  bool has_sse42 = false;
  bool has_avx2 = false;
  bool has_avx512 = false;
  bool has_avx512_vnni = false;  // and VPOPCNTDQ
};

uint64_t enabled_state() {
  uint32_t low = 0;
  uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

Cpu ask_cpu() {
  Cpu cpu;
  uint32_t a = 0;
  uint32_t b = 0;
  uint32_t c = 0;
  uint32_t d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return cpu;
  cpu.has_sse42 = (c & bit_SSE4_2) != 0;
  const bool has_floor = (c & bit_AVX) && (c & bit_FMA) && (c & bit_F16C) && (c & bit_POPCNT) && (c & bit_OSXSAVE);
  if (!has_floor) return cpu;
  const uint64_t state = enabled_state();
  const bool saves_ymm = (state & 0x06) == 0x06;  // XMM and YMM
  const bool saves_zmm = (state & 0xE6) == 0xE6;  // and opmask, upper ZMM, ZMM16-31
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return cpu;
  cpu.has_avx2 = saves_ymm && (b & bit_AVX2);
  cpu.has_avx512 = cpu.has_avx2 && saves_zmm && (b & bit_AVX512F) && (b & bit_AVX512BW) && (b & bit_AVX512VL);
  cpu.has_avx512_vnni = cpu.has_avx512 && (c & bit_AVX512VNNI) && (c & bit_AVX512VPOPCNTDQ);
#ifdef LIKEWISE_EMULATE  // a build of the tests
  cpu.has_avx512 = cpu.has_avx512_vnni = cpu.has_avx2;
#endif
  return cpu;
}

// From the floor up; a level missing on this CPU repeats the one below it.
struct Level {
  const char* name;
  const Simd* table;
};

std::vector<Level> levels() {
  const Cpu cpu = ask_cpu();
  const Simd* avx2 = cpu.has_avx2 ? &avx2_simd() : &scalar_simd();
  const Simd* avx512 = cpu.has_avx512 ? &avx512_simd() : avx2;
  return {{"scalar", &scalar_simd()},
          {"avx2", avx2},
          {"avx512", avx512},
          {"avx512_vnni", cpu.has_avx512_vnni ? &avx512_vnni_simd() : avx512}};
}

Crc32cStreams hardware_crc32c() { return ask_cpu().has_sse42 ? crc32c_sse42 : crc32c_table; }

#else

struct Level {
  const char* name;
  const Simd* table;
};

#if defined(__aarch64__)

std::vector<Level> levels() { return {{"scalar", &scalar_simd()}, {"neon", &neon_simd()}}; }

Crc32cStreams hardware_crc32c() {
#if defined(__linux__)
  constexpr unsigned long hwcap_crc32 = 1UL << 7;
  return (getauxval(AT_HWCAP) & hwcap_crc32) != 0 ? crc32c_arm : crc32c_table;
#elif defined(__APPLE__)
  return crc32c_arm;
#else
  return crc32c_table;
#endif
}

#else

std::vector<Level> levels() { return {{"scalar", &scalar_simd()}}; }

Crc32cStreams hardware_crc32c() { return crc32c_table; }

#endif
#endif

Simd choose() {
  const std::vector<Level> known = levels();
  const char* asked = std::getenv("LIKEWISE_SIMD");
  const std::string_view cap = asked == nullptr ? std::string_view() : std::string_view(asked);
  size_t level = known.size() - 1;
  if (!cap.empty()) {
    std::string names;
    bool is_known = false;
    for (size_t i = 0; i < known.size(); ++i) {
      names += (i == 0 ? "" : ", ") + std::string(known[i].name);
      if (cap == known[i].name) {
        level = i;
        is_known = true;
      }
    }
    if (!is_known) {
      throw std::invalid_argument("[backend] LIKEWISE_SIMD is '" + std::string(cap) + "'; expected one of " + names +
                                  " on this machine; correct it or unset it");
    }
  }
  Simd chosen = *known[level].table;
  chosen.crc32c = level == 0 && !cap.empty() ? crc32c_table : hardware_crc32c();
  return chosen;
}

}  // namespace

const Simd& simd() {
  static const Simd chosen = choose();
  return chosen;
}

}  // namespace likewise
