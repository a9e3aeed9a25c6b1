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

// V: static void look_up(const uint8_t* tables, const unsigned char* bits, size_t n_pairs, uint16_t* sums): of 32 rows,
// for at most 256 pairs, whose sums fit 16 bits.
template <class V>
void block_bounds(const BlockQuery& query, const unsigned char* block, float base, float reach, float* out) {
  constexpr size_t most_pairs = 256;
  const auto* shifts = reinterpret_cast<const float*>(block);
  const float* slopes = shifts + block_rows;
  const unsigned char* bits = block + block_signs;
  const float offset = query.offset + reach;
  uint16_t sums[block_rows];
  if (query.n_pairs <= most_pairs) {
    V::look_up(query.tables, bits, query.n_pairs, sums);
    for (size_t i = 0; i < block_rows; ++i) {
      out[i] = base + shifts[i] - slopes[i] * (query.step * static_cast<float>(sums[i]) + offset);
    }
    return;
  }
  int32_t totals[block_rows] = {};
  for (size_t pair = 0; pair < query.n_pairs; pair += most_pairs) {
    const size_t rest = query.n_pairs - pair;
    V::look_up(query.tables + 32 * pair, bits + block_rows * pair, rest < most_pairs ? rest : most_pairs, sums);
    for (size_t i = 0; i < block_rows; ++i) totals[i] += sums[i];
  }
  for (size_t i = 0; i < block_rows; ++i) {
    out[i] = base + shifts[i] - slopes[i] * (query.step * static_cast<float>(totals[i]) + offset);
  }
}

typedef float Eight __attribute__((vector_size(32)));
typedef int32_t EightInts __attribute__((vector_size(32)));
typedef int16_t EightShorts __attribute__((vector_size(16)));
typedef int8_t EightBytes __attribute__((vector_size(8)));

// A byte at a time would be spelt out: by way of 16 bits compilers find the instructions.
#define LIKEWISE_FLOATS(bytes) \
  __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(bytes, EightShorts), EightInts), Eight)

[[gnu::always_inline]] inline void load(const float* p, Eight& out) { __builtin_memcpy(&out, p, sizeof(out)); }
[[gnu::always_inline]] inline void store(const Eight& value, float* p) { __builtin_memcpy(p, &value, sizeof(value)); }

// Two stages of the transform at once, between coordinates `half` and 2 * half apart; half a multiple of 8.
template <class V>
[[gnu::always_inline]] inline void two_stages(float* x, size_t n, size_t half) {
  for (size_t i = 0; i < n; i += 4 * half) {
    for (float* at = x + i; at < x + i + half; at += 8) {
      Eight a, b, c, d;
      load(at, a);
      load(at + half, b);
      load(at + 2 * half, c);
      load(at + 3 * half, d);
      const Eight near_sum = a + b;
      const Eight near_gap = a - b;
      const Eight far_sum = c + d;
      const Eight far_gap = c - d;
      store(near_sum + far_sum, at);
      store(near_gap + far_gap, at + half);
      store(near_sum - far_sum, at + 2 * half);
      store(near_gap - far_gap, at + 3 * half);
    }
  }
}

// All stages from `half` on.
template <class V>
[[gnu::always_inline]] inline void stages(float* x, size_t n, size_t half) {
  for (; 2 * half < n; half *= 4) two_stages<V>(x, n, half);
  if (half == n) return;
  for (float* at = x; at < x + half; at += 8) {
    Eight a, b;
    load(at, a);
    load(at + half, b);
    store(a + b, at);
    store(a - b, at + half);
  }
}

// The Walsh-Hadamard transform of x, unscaled, its coordinates in another order, into out; n a power of two from 64.
// The three stages between close neighbours are done after a transposition has moved those apart.
template <class V>
void hadamard(float* x, float* out, size_t n) {
  constexpr size_t close = 8;
  stages<V>(x, n, close);
  const size_t rows = n / close;
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < close; ++j) out[j * rows + i] = x[i * close + j];
  }
  stages<V>(out, n, rows);
}

// The lowest bits of eight bytes, gathered by one multiplication.
[[gnu::always_inline]] inline uint8_t byte_of(uint64_t eight) {
  return static_cast<uint8_t>(((eight & 0x0101010101010101ULL) * 0x0102040810204080ULL) >> 56);
}

// One plane of 64 numbers below 16: bit `plane` of each.
[[gnu::always_inline]] inline uint64_t plane_of(const uint8_t* numbers, size_t plane) {
  uint64_t bits = 0;
  for (size_t byte = 0; byte < 8; ++byte) {
    uint64_t eight;
    __builtin_memcpy(&eight, numbers + 8 * byte, sizeof(eight));
    bits |= static_cast<uint64_t>(byte_of(eight >> plane)) << (8 * byte);
  }
  return bits;
}

// V: static unsigned negative(const float* eight): bit j = the sign of eight[j].
template <class V>
void residual(const int8_t* codes, const int8_t* fine, float scale, float fine_scale, const float* from, size_t dim,
              unsigned char* bits, ResidualSums& sums) {
  Eight squares = {};
  Eight magnitudes = {};
  Eight crosses = {};
  Eight signed_sums = {};
  for (size_t i = 0; i < dim; i += 8) {
    EightBytes coarse, rest;
    __builtin_memcpy(&coarse, codes + i, sizeof(coarse));
    __builtin_memcpy(&rest, fine + i, sizeof(rest));
    Eight v;
    load(from + i, v);
    const Eight r = (LIKEWISE_FLOATS(coarse) * scale + LIKEWISE_FLOATS(rest) * fine_scale) - v;
    EightInts r_bits, v_bits;
    __builtin_memcpy(&r_bits, &r, sizeof(r));
    __builtin_memcpy(&v_bits, &v, sizeof(v));
    const EightInts magnitude_bits = r_bits & 0x7fffffff;
    const EightInts signed_bits = v_bits ^ (r_bits & ~0x7fffffff);
    Eight magnitude, signed_v;
    __builtin_memcpy(&magnitude, &magnitude_bits, sizeof(magnitude));
    __builtin_memcpy(&signed_v, &signed_bits, sizeof(signed_v));
    squares += r * r;
    magnitudes += magnitude;
    crosses += r * v;
    signed_sums += signed_v;
    float each[8];
    store(r, each);
    bits[block_rows * (i / 8)] = static_cast<unsigned char>(~V::negative(each));
  }
  sums = {};
  for (size_t k = 0; k < 8; ++k) {
    sums.square += squares[k];
    sums.sum += magnitudes[k];
    sums.cross += crosses[k];
    sums.signed_sum += signed_sums[k];
  }
}

// To the nearest whole number, as lrint: for |value| below 2^22, anything else gives anything.
[[gnu::always_inline]] inline int32_t rounded(float value) {
  const float shifted = value + 12582912.0F;  // 1.5 * 2^23: what is left of the mantissa counts ones
  uint32_t bits;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  return static_cast<int32_t>(bits - 0x4b400000U);
}

// Sums of 4 signed coordinates, and what they add up to.
[[gnu::always_inline]] inline void fill_tables(const float* x, size_t dim, QueryForms& forms) {
  constexpr float table_max = 125;  // the sum of four rounded numbers may be two more
  float widest = 0;
  for (size_t i = 0; i < dim; i += 4) {
    const float width =
        (__builtin_fabsf(x[i]) + __builtin_fabsf(x[i + 1])) + (__builtin_fabsf(x[i + 2]) + __builtin_fabsf(x[i + 3]));
    widest = width > widest ? width : widest;
  }
  forms.table_step = widest > 0 ? widest / table_max : 1;
  const float inverse = 1 / forms.table_step;
  int32_t least = 0;
  int32_t all = 0;
  for (size_t i = 0; i < dim; i += 64) {
    int8_t numbers[64];
    for (size_t j = 0; j < 64; ++j) numbers[j] = static_cast<int8_t>(rounded(x[i + j] * inverse));
    for (size_t j = 0; j < 64; j += 4) {
      int32_t negative = 0;
      for (size_t k = 0; k < 4; ++k) {
        negative += numbers[j + k] < 0 ? numbers[j + k] : 0;
        all += numbers[j + k];
      }
      least += negative;
      // Sixteen sums in two words: every byte ends up within 0 and 127.
      const auto times = [](int32_t value, uint64_t bytes) { return static_cast<uint64_t>(int64_t{value}) * bytes; };
      const uint64_t low = times(-negative, 0x0101010101010101ULL) + times(numbers[j], 0x0100010001000100ULL) +
                           times(numbers[j + 1], 0x0101000001010000ULL) + times(numbers[j + 2], 0x0101010100000000ULL);
      const uint64_t high = low + times(numbers[j + 3], 0x0101010101010101ULL);
      __builtin_memcpy(forms.tables + 4 * (i + j), &low, sizeof(low));
      __builtin_memcpy(forms.tables + 4 * (i + j) + 8, &high, sizeof(high));
    }
  }
  forms.table_offset = 2 * least - all;
}

template <class V>
void query_forms(const float* x, const float* centre, size_t dim, float step_max, QueryForms& forms) {
  constexpr size_t lanes = 8;
  constexpr float plane_max = 15;
  float lows[lanes];
  float highs[lanes];
  float sums[lanes] = {};
  float squares[lanes] = {};
  float centres[lanes] = {};
  for (size_t j = 0; j < lanes; ++j) lows[j] = highs[j] = x[j];
  for (size_t i = 0; i < dim; i += lanes) {
    for (size_t j = 0; j < lanes; ++j) {
      const float value = x[i + j];
      lows[j] = value < lows[j] ? value : lows[j];
      highs[j] = value > highs[j] ? value : highs[j];
      sums[j] += value;
      squares[j] += value * value;
      centres[j] += value * centre[i + j];
    }
  }
  float lowest = lows[0];
  float highest = highs[0];
  forms.sum = forms.square = forms.centre_dot = 0;
  for (size_t j = 0; j < lanes; ++j) {
    lowest = lows[j] < lowest ? lows[j] : lowest;
    highest = highs[j] > highest ? highs[j] : highest;
    forms.sum += sums[j];
    forms.square += squares[j];
    forms.centre_dot += centres[j];
  }
  const float most = highest > -lowest ? highest : -lowest;
  forms.step = most > 0 ? most / step_max : 1;
  const float inverse = 1 / forms.step;
  for (size_t i = 0; i < dim; ++i) forms.steps[i] = static_cast<int16_t>(rounded(x[i] * inverse));

  forms.lowest = lowest;
  forms.plane_step = highest > lowest ? (highest - lowest) / plane_max : 1;
  const float plane_inverse = 1 / forms.plane_step;
  for (size_t i = 0; i < dim; i += 64) {
    uint8_t numbers[64];
    for (size_t j = 0; j < 64; ++j) numbers[j] = static_cast<uint8_t>(rounded((x[i + j] - lowest) * plane_inverse));
    for (size_t plane = 0; plane < 4; ++plane) forms.planes[i / 16 + plane] = plane_of(numbers, plane);
  }
  fill_tables(x, dim, forms);
}

template <class V>
constexpr Quantized make_quantized() {
  return {dot_codes<V>, sign_bounds<V>, block_bounds<V>, residual<V>, hadamard<V>, query_forms<V>};
}

}  // namespace likewise
