// Sums of products of whole numbers, for the files of AVX-512; each compiles them under its own flags.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace likewise {
namespace {

struct Avx512Products {
  using products = __m512i;
  static constexpr size_t n_codes = 32;
  static products zero_products() { return _mm512_setzero_si512(); }
  static products add_products(products sums, const int16_t* query, const int8_t* codes) {
    return _mm512_add_epi32(sums, _mm512_madd_epi16(widened(codes), _mm512_loadu_si512(query)));
  }
  static products add(products a, products b) { return _mm512_add_epi32(a, b); }
  static int32_t sum(products a) { return _mm512_reduce_add_epi32(a); }
  static void sum_four(const products* a, int32_t* out) {
    const __m512i first = _mm512_add_epi32(_mm512_unpacklo_epi32(a[0], a[1]), _mm512_unpackhi_epi32(a[0], a[1]));
    const __m512i second = _mm512_add_epi32(_mm512_unpacklo_epi32(a[2], a[3]), _mm512_unpackhi_epi32(a[2], a[3]));
    const __m512i both = _mm512_add_epi32(_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(both), _mm512_extracti64x4_epi64(both, 1));
    const __m128i all = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), all);
  }

 protected:
  static __m512i widened(const int8_t* codes) {
    return _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes)));
  }
};

}  // namespace
}  // namespace likewise
