// AVX2 + FMA + F16C + POPCNT; compiled with those flags and entered only when simd() has asked CPU and OS.
#include <immintrin.h>

#include "simd_kernels.h"

namespace likewise {
namespace {

struct Avx2 {
  using reg = __m256;
  static constexpr size_t lanes = 8;
  static constexpr int rows = 2;
  static constexpr int queries = 3;
  static constexpr int solo_rows = 4;

  static reg zero() { return _mm256_setzero_ps(); }
  static reg broadcast(float value) { return _mm256_set1_ps(value); }
  static reg load(const float* p) { return _mm256_loadu_ps(p); }
  static reg load(const float* p, size_t n) { return _mm256_maskload_ps(p, first_lanes(n)); }
  static reg load(const int8_t* p) { return widen(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
  static reg load(const int8_t* p, size_t n) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; ++i) bytes |= static_cast<uint64_t>(static_cast<uint8_t>(p[i])) << (8 * i);
    return widen(_mm_cvtsi64_si128(static_cast<int64_t>(bytes)));
  }
  static reg add(reg a, reg b) { return _mm256_add_ps(a, b); }
  static reg sub(reg a, reg b) { return _mm256_sub_ps(a, b); }
  static reg fma(reg a, reg b, reg c) { return _mm256_fmadd_ps(a, b, c); }
  static float sum(reg a) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }

  using products = __m256i;
  static constexpr size_t n_codes = 16;
  static products zero_products() { return _mm256_setzero_si256(); }
  static products add_products(products sums, const int16_t* query, const int8_t* codes) {
    const __m256i words = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
    const __m256i steps = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(query));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(words, steps));
  }
  static products add(products a, products b) { return _mm256_add_epi32(a, b); }
  static int32_t sum(products a) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1)));
  }
  static void sum_four(const products* a, int32_t* out) {
    const __m256i both = _mm256_hadd_epi32(_mm256_hadd_epi32(a[0], a[1]), _mm256_hadd_epi32(a[2], a[3]));
    const __m128i all = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), all);
  }

  static unsigned negative(const float* eight) {
    return static_cast<unsigned>(_mm256_movemask_ps(_mm256_loadu_ps(eight)));
  }

  static void look_up(const uint8_t* tables, const unsigned char* bits, size_t n_pairs, uint16_t* sums) {
    const __m256i low_half = _mm256_set1_epi8(15);
    __m256i both = _mm256_setzero_si256();  // sums of even rows, and 256 times those of odd rows
    __m256i odd = _mm256_setzero_si256();
    for (size_t pair = 0; pair < n_pairs; ++pair) {
      const __m256i codes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bits + 32 * pair));
      const __m128i* table = reinterpret_cast<const __m128i*>(tables + 32 * pair);
      const __m256i low =
          _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table)), _mm256_and_si256(codes, low_half));
      const __m256i high = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table + 1)),
                                               _mm256_and_si256(_mm256_srli_epi16(codes, 4), low_half));
      const __m256i sum = _mm256_add_epi8(low, high);
      both = _mm256_add_epi16(both, sum);
      odd = _mm256_add_epi16(odd, _mm256_srli_epi16(sum, 8));
    }
    const __m256i even = _mm256_sub_epi16(both, _mm256_slli_epi16(odd, 8));
    const __m256i first = _mm256_unpacklo_epi16(even, odd);   // rows 0 to 7 and 16 to 23
    const __m256i second = _mm256_unpackhi_epi16(even, odd);  // rows 8 to 15 and 24 to 31
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + 16), _mm256_permute2x128_si256(first, second, 0x31));
  }

  template <Operator op>
  static uint64_t passes(const float* values, float value) {
    constexpr int test = predicate(op);
    const __m256 wanted = _mm256_set1_ps(value);
    uint64_t mask = 0;
    for (unsigned i = 0; i < 64; i += 8) {
      const int bits = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(values + i), wanted, test));
      mask |= static_cast<uint64_t>(static_cast<unsigned>(bits)) << i;
    }
    return mask;
  }
  template <Operator op>
  static uint64_t passes(const double* values, double value) {
    constexpr int test = predicate(op);
    const __m256d wanted = _mm256_set1_pd(value);
    uint64_t mask = 0;
    for (unsigned i = 0; i < 64; i += 4) {
      const int bits = _mm256_movemask_pd(_mm256_cmp_pd(_mm256_loadu_pd(values + i), wanted, test));
      mask |= static_cast<uint64_t>(static_cast<unsigned>(bits)) << i;
    }
    return mask;
  }
  template <Operator op>
  static uint64_t passes(const int64_t* values, int64_t value) {
    const __m256i wanted = _mm256_set1_epi64x(value);
    uint64_t mask = 0;
    for (unsigned i = 0; i < 64; i += 4) {
      const __m256i have = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values + i));
      __m256i hit;
      if constexpr (op == Operator::equal || op == Operator::not_equal) hit = _mm256_cmpeq_epi64(have, wanted);
      if constexpr (op == Operator::greater || op == Operator::less_equal) hit = _mm256_cmpgt_epi64(have, wanted);
      if constexpr (op == Operator::less || op == Operator::greater_equal) hit = _mm256_cmpgt_epi64(wanted, have);
      const int bits = _mm256_movemask_pd(_mm256_castsi256_pd(hit));
      mask |= static_cast<uint64_t>(static_cast<unsigned>(bits)) << i;
    }
    constexpr bool is_negated =
        op == Operator::not_equal || op == Operator::less_equal || op == Operator::greater_equal;
    return is_negated ? ~mask : mask;
  }
  static size_t count(uint64_t word) { return static_cast<size_t>(_mm_popcnt_u64(word)); }

 private:
  static __m256 widen(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }
  static __m256i first_lanes(size_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
  }
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
};

constexpr Simd table = make_simd<Avx2>("avx2");

}  // namespace

const Simd& avx2_simd() { return table; }

}  // namespace likewise
