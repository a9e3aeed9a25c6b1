// AVX-512 on any x86 CPU: what SIMDe plays, and what Debian's release of it lacks. Stands before the compiler's own
// header on the include path of the AVX-512 files, in the tests' build alone.
#pragma once

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

// SIMDe 0.7.4 takes four arguments here.
#undef _mm512_madd_epi16
#define _mm512_madd_epi16(a, b) simde_mm512_madd_epi16(a, b)

namespace emulated {

template <class To, class From>
To as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

template <class T, size_t n>
struct Lanes {
  T lane[n];
};

inline float reduce_add_ps(__m512 a) {
  auto lanes = as<Lanes<float, 16>>(a);
  for (size_t half = 8; half > 0; half /= 2) {
    for (size_t i = 0; i < half; ++i) lanes.lane[i] += lanes.lane[i + half];
  }
  return lanes.lane[0];
}

inline int reduce_add_epi32(__m512i a) {
  uint32_t sum = 0;
  for (const uint32_t lane : as<Lanes<uint32_t, 16>>(a).lane) sum += lane;
  return static_cast<int>(sum);
}

// A lane whose bit is not set is not read.
inline __m512 maskz_loadu_ps(unsigned mask, const float* p) {
  Lanes<float, 16> lanes{};
  for (size_t i = 0; i < 16; ++i) {
    if ((mask >> i & 1U) != 0) lanes.lane[i] = p[i];
  }
  return as<__m512>(lanes);
}

inline __m128i maskz_loadu_epi8(unsigned mask, const void* p) {
  Lanes<int8_t, 16> lanes{};
  for (size_t i = 0; i < 16; ++i) {
    if ((mask >> i & 1U) != 0) lanes.lane[i] = static_cast<const int8_t*>(p)[i];
  }
  return as<__m128i>(lanes);
}

inline __m512i cvtepi8_epi32(__m128i a) {
  const auto bytes = as<Lanes<int8_t, 16>>(a);
  Lanes<int32_t, 16> lanes;
  for (size_t i = 0; i < 16; ++i) lanes.lane[i] = bytes.lane[i];
  return as<__m512i>(lanes);
}

inline __m512 cvtepi32_ps(__m512i a) {
  const auto ints = as<Lanes<int32_t, 16>>(a);
  Lanes<float, 16> lanes;
  for (size_t i = 0; i < 16; ++i) lanes.lane[i] = static_cast<float>(ints.lane[i]);
  return as<__m512>(lanes);
}

inline __mmask8 cmp_epi64_mask(__m512i a, __m512i b, int test) {
  const auto left = as<Lanes<int64_t, 8>>(a);
  const auto right = as<Lanes<int64_t, 8>>(b);
  unsigned mask = 0;
  for (size_t i = 0; i < 8; ++i) {
    const int64_t x = left.lane[i];
    const int64_t y = right.lane[i];
    const bool holds[] = {x == y, x<y, x <= y, false, x != y, x >= y, x> y, true};
    mask |= static_cast<unsigned>(holds[test]) << i;
  }
  return static_cast<__mmask8>(mask);
}

}  // namespace emulated

#define _mm512_reduce_add_ps emulated::reduce_add_ps
#define _mm512_reduce_add_epi32 emulated::reduce_add_epi32
#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#define _mm_maskz_loadu_epi8 emulated::maskz_loadu_epi8
#define _mm512_cvtepi8_epi32 emulated::cvtepi8_epi32
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#undef _mm512_cmp_epi64_mask
#define _mm512_cmp_epi64_mask emulated::cmp_epi64_mask
