// The AVX-512 table with VNNI and VPOPCNTDQ where they save instructions: in whole numbers. Compiled with those flags
// and entered only when simd() has asked CPU and OS.
#include "simd_avx512.h"
#include "simd_quantized.h"

namespace likewise {
namespace {

struct Vnni : Avx512Products {
  static products add_products(products sums, const int16_t* query, const int8_t* codes) {
    return _mm512_dpwssd_epi32(sums, widened(codes), _mm512_loadu_si512(query));
  }

  // A lane a plane: 256 bits hold a word's four.
  static uint64_t plane_steps(const uint64_t* words, const uint64_t* planes, size_t n_words) {
    __m256i sums = _mm256_setzero_si256();
    for (size_t w = 0; w < n_words; ++w) {
      const __m256i plane = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(planes + 4 * w));
      const __m256i both = _mm256_and_si256(_mm256_set1_epi64x(static_cast<int64_t>(words[w])), plane);
      sums = _mm256_add_epi64(sums, _mm256_popcnt_epi64(both));
    }
    sums = _mm256_sllv_epi64(sums, _mm256_setr_epi64x(0, 1, 2, 3));
    const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    return static_cast<uint64_t>(_mm_cvtsi128_si64(half) + _mm_extract_epi64(half, 1));
  }
};

}  // namespace

const Simd& avx512_vnni_simd() {
  static const Simd table = [] {
    Simd changed = avx512_simd();
    changed.name = "avx512_vnni";
    changed.quantized.dots = dot_codes<Vnni>;
    changed.quantized.sign_bounds = sign_bounds<Vnni>;
    return changed;
  }();
  return table;
}

}  // namespace likewise
