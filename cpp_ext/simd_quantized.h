// Kernels of the quantised rows, written once: each instruction set's file compiles them under its own flags and brings
// its own `dot`. Whole numbers and uncontracted floats: every level gives the same bits.
#pragma once

#include "simd.h"

namespace likewise {

// V: static int32_t dot(const int16_t* query, const int8_t* codes, size_t dim), dim a multiple of 64.
template <class V>
void dot_codes(const int16_t* query, const int8_t* codes, size_t dim, const uint32_t* ids, size_t n_ids, int32_t* out) {
  for (size_t i = 0; i < n_ids; ++i) out[i] = V::dot(query, codes + static_cast<size_t>(ids[i]) * dim, dim);
}

template <class V, size_t fixed_words>
[[gnu::always_inline]] inline void bound_rows(const SignQuery& query, const unsigned char* records, size_t stride,
                                              const uint32_t* ids, size_t n_ids, float* out) {
  const size_t n_words = fixed_words == 0 ? query.n_words : fixed_words;
  const uint64_t* planes = query.planes;
  for (size_t i = 0; i < n_ids; ++i) {
    const unsigned char* record = records + static_cast<size_t>(ids[i]) * stride;
    const auto* words = reinterpret_cast<const uint64_t*>(record);
    SignFactors factors;
    __builtin_memcpy(&factors, record + n_words * sizeof(uint64_t), sizeof(factors));
    uint64_t ones = 0;
    uint64_t twos = 0;
    uint64_t fours = 0;
    uint64_t eights = 0;
    for (size_t w = 0; w < n_words; ++w) {
      const uint64_t word = words[w];
      ones += static_cast<uint64_t>(__builtin_popcountll(word & planes[4 * w]));
      twos += static_cast<uint64_t>(__builtin_popcountll(word & planes[4 * w + 1]));
      fours += static_cast<uint64_t>(__builtin_popcountll(word & planes[4 * w + 2]));
      eights += static_cast<uint64_t>(__builtin_popcountll(word & planes[4 * w + 3]));
    }
    const auto steps = static_cast<float>(ones + 2 * twos + 4 * fours + 8 * eights);
    const float signed_sum = query.step * steps + query.lowest * factors.n_ones + query.offset;
    out[i] = query.constant + factors.shift - factors.slope * signed_sum;
  }
}

// One body a common length: the loop over words unrolls.
template <class V>
void sign_bounds(const SignQuery& query, const unsigned char* records, size_t stride, const uint32_t* ids, size_t n_ids,
                 float* out) {
  switch (query.n_words) {
    case 1:
      return bound_rows<V, 1>(query, records, stride, ids, n_ids, out);
    case 2:
      return bound_rows<V, 2>(query, records, stride, ids, n_ids, out);
    case 4:
      return bound_rows<V, 4>(query, records, stride, ids, n_ids, out);
    case 6:
      return bound_rows<V, 6>(query, records, stride, ids, n_ids, out);
    case 8:
      return bound_rows<V, 8>(query, records, stride, ids, n_ids, out);
    case 12:
      return bound_rows<V, 12>(query, records, stride, ids, n_ids, out);
    default:
      return bound_rows<V, 0>(query, records, stride, ids, n_ids, out);
  }
}

template <class V>
[[gnu::always_inline]] inline void butterflies(float* x, size_t n, size_t half) {
  for (size_t i = 0; i < n; i += 2 * half) {
    float* low = x + i;
    float* high = x + i + half;
    for (size_t j = 0; j < half; ++j) {
      const float a = low[j];
      const float b = high[j];
      low[j] = a + b;
      high[j] = a - b;
    }
  }
}

// The Walsh-Hadamard transform of x, unscaled, its coordinates in another order, into out; n a power of two from 64.
// The three stages between close neighbours are done after a transposition has moved those apart.
template <class V>
void hadamard(float* x, float* out, size_t n) {
  constexpr size_t close = 8;
  for (size_t half = close; half < n; half *= 2) butterflies<V>(x, n, half);
  const size_t rows = n / close;
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < close; ++j) out[j * rows + i] = x[i * close + j];
  }
  for (size_t half = rows; half < n; half *= 2) butterflies<V>(out, n, half);
}

template <class V>
constexpr Quantized make_quantized() {
  return {dot_codes<V>, sign_bounds<V>, hadamard<V>};
}

}  // namespace likewise
