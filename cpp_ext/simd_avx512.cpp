// AVX-512 F, BW, VL; compiled with those flags and entered only when simd() has asked CPU and OS.
#include <immintrin.h>

#include "simd_avx512.h"
#include "simd_kernels.h"

namespace likewise {
namespace {

struct Avx512 : Avx512Products {
  using reg = __m512;
  static constexpr size_t lanes = 16;
  static constexpr int rows = 4;
  static constexpr int queries = 3;
  static constexpr int solo_rows = 4;

  static reg zero() { return _mm512_setzero_ps(); }
  static reg broadcast(float value) { return _mm512_set1_ps(value); }
  static reg load(const float* p) { return _mm512_loadu_ps(p); }
  static reg load(const float* p, size_t n) { return _mm512_maskz_loadu_ps(first_lanes(n), p); }
  static reg load(const int8_t* p) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static reg load(const int8_t* p, size_t n) { return widen(_mm_maskz_loadu_epi8(first_lanes(n), p)); }
  using Avx512Products::add;
  using Avx512Products::sum;
  static reg add(reg a, reg b) { return _mm512_add_ps(a, b); }
  static reg sub(reg a, reg b) { return _mm512_sub_ps(a, b); }
  static reg fma(reg a, reg b, reg c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(reg a) { return _mm512_reduce_add_ps(a); }

  static unsigned negative(const float* eight) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_loadu_ps(eight)));
  }

  static void look_up(const uint8_t* tables, const unsigned char* bits, size_t n_pairs, uint16_t* sums) {
    const __m512i low_half = _mm512_set1_epi8(15);
    __m512i both = _mm512_setzero_si512();  // sums of even rows, and 256 times those of odd rows
    __m512i odd = _mm512_setzero_si512();
    for (size_t pair = 0; pair < n_pairs; pair += 2) {  // n_pairs is a multiple of 8
      const __m512i codes = _mm512_loadu_si512(bits + 32 * pair);
      const __m512i table = _mm512_loadu_si512(tables + 32 * pair);
      const __m512i low =
          _mm512_shuffle_epi8(_mm512_shuffle_i32x4(table, table, 0xa0), _mm512_and_si512(codes, low_half));
      const __m512i high = _mm512_shuffle_epi8(_mm512_shuffle_i32x4(table, table, 0xf5),
                                               _mm512_and_si512(_mm512_srli_epi16(codes, 4), low_half));
      const __m512i sum = _mm512_add_epi8(low, high);
      both = _mm512_add_epi16(both, sum);
      odd = _mm512_add_epi16(odd, _mm512_srli_epi16(sum, 8));
    }
    const __m512i even = _mm512_sub_epi16(both, _mm512_slli_epi16(odd, 8));
    const __m256i evens = _mm256_add_epi16(_mm512_castsi512_si256(even), _mm512_extracti64x4_epi64(even, 1));
    const __m256i odds = _mm256_add_epi16(_mm512_castsi512_si256(odd), _mm512_extracti64x4_epi64(odd, 1));
    const __m256i first = _mm256_unpacklo_epi16(evens, odds);   // rows 0 to 7 and 16 to 23
    const __m256i second = _mm256_unpackhi_epi16(evens, odds);  // rows 8 to 15 and 24 to 31
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + 16), _mm256_permute2x128_si256(first, second, 0x31));
  }

  template <Operator op>
  static uint64_t passes(const float* values, float value) {
    constexpr int test = predicate(op);
    const __m512 wanted = _mm512_set1_ps(value);
    uint64_t mask = 0;
    for (unsigned i = 0; i < 64; i += 16) {
      mask |= static_cast<uint64_t>(_mm512_cmp_ps_mask(_mm512_loadu_ps(values + i), wanted, test)) << i;
    }
    return mask;
  }
  template <Operator op>
  static uint64_t passes(const double* values, double value) {
    constexpr int test = predicate(op);
    const __m512d wanted = _mm512_set1_pd(value);
    uint64_t mask = 0;
    for (unsigned i = 0; i < 64; i += 8) {
      mask |= static_cast<uint64_t>(_mm512_cmp_pd_mask(_mm512_loadu_pd(values + i), wanted, test)) << i;
    }
    return mask;
  }
  template <Operator op>
  static uint64_t passes(const int64_t* values, int64_t value) {
    constexpr int test = int_predicate(op);
    const __m512i wanted = _mm512_set1_epi64(value);
    uint64_t mask = 0;
    for (unsigned i = 0; i < 64; i += 8) {
      mask |= static_cast<uint64_t>(_mm512_cmp_epi64_mask(_mm512_loadu_si512(values + i), wanted, test)) << i;
    }
    return mask;
  }
  static size_t count(uint64_t word) { return static_cast<size_t>(_mm_popcnt_u64(word)); }

 private:
  static __m512 widen(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)); }
  static __mmask16 first_lanes(size_t n) { return static_cast<__mmask16>((1U << n) - 1U); }
  static constexpr int predicate(Operator op) {
    switch (op) {
      case Operator::less:
        return _CMP_LT_OQ;
      case Operator::less_equal:
        return _CMP_LE_OQ;
      case Operator::equal:
        return _CMP_EQ_OQ;
      case Operator::greater_equal:
        return _CMP_GE_OQ;
      case Operator::greater:
        return _CMP_GT_OQ;
      case Operator::not_equal:
        return _CMP_NEQ_OQ;
    }
    return _CMP_FALSE_OQ;
  }
  static constexpr int int_predicate(Operator op) {
    switch (op) {
      case Operator::less:
        return _MM_CMPINT_LT;
      case Operator::less_equal:
        return _MM_CMPINT_LE;
      case Operator::equal:
        return _MM_CMPINT_EQ;
      case Operator::greater_equal:
        return _MM_CMPINT_NLT;
      case Operator::greater:
        return _MM_CMPINT_NLE;
      case Operator::not_equal:
        return _MM_CMPINT_NE;
    }
    return _MM_CMPINT_NE;
  }
};

constexpr Simd table = make_simd<Avx512>("avx512");

}  // namespace

const Simd& avx512_simd() { return table; }

}  // namespace likewise
