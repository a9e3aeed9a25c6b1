// Kernels of the quantised rows, written once: each instruction set's file compiles them under its own flags and brings
// what stands before each. Whole numbers and uncontracted floats: every level gives the same bits.
#pragma once

#include "simd.h"

namespace likewise {

// V: products, sums in int32_t; n_codes, that are taken at once, a divisor of 64; zero_products(); add_products(sums,
// query, codes); add(sums, sums); sum(sums); sum_four(sums[4], out)
template <class V, size_t n_rows>
[[gnu::always_inline]] inline void dot_rows(const int16_t* query, const int8_t* codes, size_t dim, const uint32_t* ids,
                                            int32_t* out) {
  constexpr size_t n_parts = n_rows == 1 ? 64 / V::n_codes : 1;  // a row alone must not wait for its own sum
  const int8_t* rows[n_rows];
  typename V::products sums[n_parts][n_rows];
  for (size_t r = 0; r < n_rows; ++r) {
    rows[r] = codes + static_cast<size_t>(ids[r]) * dim;
    for (size_t part = 0; part < n_parts; ++part) sums[part][r] = V::zero_products();
  }
  for (size_t i = 0; i < dim; i += n_parts * V::n_codes) {
    for (size_t part = 0; part < n_parts; ++part) {
      const size_t at = i + part * V::n_codes;
      for (size_t r = 0; r < n_rows; ++r) sums[part][r] = V::add_products(sums[part][r], query + at, rows[r] + at);
    }
  }
  if constexpr (n_rows == 1) {
    for (size_t part = 1; part < n_parts; ++part) sums[0][0] = V::add(sums[0][0], sums[part][0]);
    out[0] = V::sum(sums[0][0]);
  } else {
    V::sum_four(sums[0], out);
  }
}

// dim a multiple of 64. Four rows side by side read the query once and are added up together.
template <class V>
void dot_codes(const int16_t* query, const int8_t* codes, size_t dim, const uint32_t* ids, size_t n_ids, int32_t* out) {
  size_t i = 0;
  for (; i + 4 <= n_ids; i += 4) dot_rows<V, 4>(query, codes, dim, ids + i, out + i);
  for (; i < n_ids; ++i) dot_rows<V, 1>(query, codes, dim, ids + i, out + i);
}

// The query's steps where a row's sign bits are set; V may bring its own.
template <class V>
[[gnu::always_inline]] inline uint64_t plane_steps(const uint64_t* words, const uint64_t* planes, size_t n_words) {
  if constexpr (requires { V::plane_steps(words, planes, n_words); }) {
    return V::plane_steps(words, planes, n_words);
  } else {
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
    return ones + 2 * twos + 4 * fours + 8 * eights;
  }
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
    const auto steps = static_cast<float>(plane_steps<V>(words, planes, n_words));
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
typedef uint32_t EightUnsigned __attribute__((vector_size(32)));
typedef int16_t EightShorts __attribute__((vector_size(16)));
typedef int8_t EightBytes __attribute__((vector_size(8)));
typedef uint8_t SixteenBytes __attribute__((vector_size(16)));
typedef uint8_t SixteenAnywhere __attribute__((vector_size(16), aligned(1), may_alias));

// A byte at a time would be spelt out: by way of 16 bits compilers find the instructions.
#define LIKEWISE_FLOATS(bytes) \
  __builtin_convertvector(__builtin_convertvector(__builtin_convertvector(bytes, EightShorts), EightInts), Eight)

// Anywhere in memory. By memcpy GCC goes by way of two halves, for which the next load has to wait.
typedef float EightAnywhere __attribute__((vector_size(32), aligned(4), may_alias));
[[gnu::always_inline]] inline void load(const float* p, Eight& out) {
  out = *reinterpret_cast<const EightAnywhere*>(p);
}
[[gnu::always_inline]] inline void store(const Eight& value, float* p) { *reinterpret_cast<EightAnywhere*>(p) = value; }

// Stages of the transform in registers: between vectors 1, 2, 4 ... places apart.
template <size_t n_vectors>
[[gnu::always_inline]] inline void butterflies(Eight* v) {
  for (size_t apart = 1; apart < n_vectors; apart *= 2) {
    for (size_t i = 0; i < n_vectors; ++i) {
      if ((i & apart) != 0) continue;
      const Eight sum = v[i] + v[i + apart];
      v[i + apart] = v[i] - v[i + apart];
      v[i] = sum;
    }
  }
}

// The stages between coordinates half, 2 half ... n_vectors / 2 * half apart; half a multiple of 8.
template <size_t n_vectors>
[[gnu::always_inline]] inline void stages(float* x, size_t n, size_t half) {
  for (size_t i = 0; i < n; i += n_vectors * half) {
    for (float* at = x + i; at < x + i + half; at += 8) {
      Eight v[n_vectors];
      for (size_t j = 0; j < n_vectors; ++j) load(at + j * half, v[j]);
      butterflies<n_vectors>(v);
      for (size_t j = 0; j < n_vectors; ++j) store(v[j], at + j * half);
    }
  }
}

// Eight vectors of eight, rows for columns.
[[gnu::always_inline]] inline void transpose(Eight* v) {
  Eight pairs[8];
  Eight fours[8];
  for (size_t i = 0; i < 8; i += 2) {
    pairs[i] = __builtin_shufflevector(v[i], v[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    pairs[i + 1] = __builtin_shufflevector(v[i], v[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (size_t i = 0; i < 8; i += 4) {
    for (size_t j = 0; j < 2; ++j) {
      fours[i + 2 * j] = __builtin_shufflevector(pairs[i + j], pairs[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      fours[i + 2 * j + 1] = __builtin_shufflevector(pairs[i + j], pairs[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (size_t i = 0; i < 4; ++i) {
    v[i] = __builtin_shufflevector(fours[i], fours[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[i + 4] = __builtin_shufflevector(fours[i], fours[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// The Walsh-Hadamard transform of x * by, unscaled, its coordinates in another order, into out; n a power of two from
// 64. x is used up. The three stages between close neighbours come last, after a transposition has moved those apart.
template <class V>
void hadamard(float* x, const float* by, float* out, size_t n) {
  constexpr size_t close = 8;
  for (size_t i = 0; i < n; i += 8) {
    Eight v, w;
    load(x + i, v);
    load(by + i, w);
    store(v * w, x + i);
  }
  size_t half = close;
  for (; 4 * half < n; half *= 8) stages<8>(x, n, half);
  if (2 * half < n) {
    stages<4>(x, n, half);
  } else if (half < n) {
    stages<2>(x, n, half);
  }
  const size_t rows = n / close;
  for (size_t i = 0; i < rows; i += close) {
    Eight v[close];
    for (size_t j = 0; j < close; ++j) load(x + (i + j) * close, v[j]);
    transpose(v);
    butterflies<close>(v);
    for (size_t j = 0; j < close; ++j) store(v[j], out + j * rows + i);
  }
}

// Turns each pair of a coordinate and its partner in the other half by 45 degrees; its own inverse. n a multiple of 16.
template <class V>
void mix_halves(float* x, size_t n) {
  constexpr float root_half = 0.70710678F;
  for (float *a = x, *b = x + n / 2; a < x + n / 2; a += 8, b += 8) {
    Eight v, w;
    load(a, v);
    load(b, w);
    store((v + w) * root_half, a);
    store((v - w) * root_half, b);
  }
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
              size_t n_signs, unsigned char* bits, ResidualSums& sums) {
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
    squares += r * r;
    crosses += r * v;
    if (i >= n_signs) continue;
    EightInts r_bits, v_bits;
    __builtin_memcpy(&r_bits, &r, sizeof(r));
    __builtin_memcpy(&v_bits, &v, sizeof(v));
    const EightInts magnitude_bits = r_bits & 0x7fffffff;
    const EightInts signed_bits = v_bits ^ (r_bits & ~0x7fffffff);
    Eight magnitude, signed_v;
    __builtin_memcpy(&magnitude, &magnitude_bits, sizeof(magnitude));
    __builtin_memcpy(&signed_v, &signed_bits, sizeof(signed_v));
    magnitudes += magnitude;
    signed_sums += signed_v;
    float each[8];
    store(r, each);
    bits[block_rows * (i / 8)] = static_cast<unsigned char>(~V::negative(each));
  }
  sums = {};
  for (size_t k = 0; k < 8; ++k) {
    sums.square += squares[k];
    sums.cross += crosses[k];
    sums.sum += magnitudes[k];
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
[[gnu::always_inline]] inline void round_eight(const Eight& values, EightInts& out) {
  const Eight shifted = values + 12582912.0F;
  EightUnsigned bits;
  __builtin_memcpy(&bits, &shifted, sizeof(bits));
  bits -= 0x4b400000U;
  __builtin_memcpy(&out, &bits, sizeof(out));
}

// What is said of a query in 16 bits a coordinate, and sums of it.
template <class V>
void query_steps(const float* x, const float* centre, size_t dim, float step_max, QueryForms& forms) {
  Eight lows, highs;
  load(x, lows);
  load(x, highs);
  Eight sums = {};
  Eight squares = {};
  Eight centres = {};
  for (size_t i = 0; i < dim; i += 8) {
    Eight v, c;
    load(x + i, v);
    load(centre + i, c);
    lows = v < lows ? v : lows;
    highs = v > highs ? v : highs;
    sums += v;
    squares += v * v;
    centres += v * c;
  }
  forms.lowest = lows[0];
  forms.highest = highs[0];
  forms.sum = forms.square = forms.centre_dot = 0;
  for (size_t j = 0; j < 8; ++j) {
    forms.lowest = lows[j] < forms.lowest ? lows[j] : forms.lowest;
    forms.highest = highs[j] > forms.highest ? highs[j] : forms.highest;
    forms.sum += sums[j];
    forms.square += squares[j];
    forms.centre_dot += centres[j];
  }
  const float most = forms.highest > -forms.lowest ? forms.highest : -forms.lowest;
  forms.step = most > 0 ? most / step_max : 1;
  const float inverse = 1 / forms.step;
  for (size_t i = 0; i < dim; ++i) forms.steps[i] = static_cast<int16_t>(rounded(x[i] * inverse));
}

// In 16 steps from lowest to highest, as bit planes.
template <class V>
void query_planes(const float* x, size_t dim, QueryForms& forms) {
  constexpr float plane_max = 15;
  const float lowest = forms.lowest;
  forms.plane_step = forms.highest > lowest ? (forms.highest - lowest) / plane_max : 1;
  const float inverse = 1 / forms.plane_step;
  for (size_t i = 0; i < dim; i += 64) {
    uint8_t numbers[64];
    for (size_t j = 0; j < 64; ++j) numbers[j] = static_cast<uint8_t>(rounded((x[i + j] - lowest) * inverse));
    for (size_t plane = 0; plane < 4; ++plane) forms.planes[i / 16 + plane] = plane_of(numbers, plane);
  }
}

// `halves` holds, of 8 numbers, what each has above zero and then what each has below. Of numbers 4 * quad to
// 4 * quad + 3, for all 16 choices of signs, the magnitudes of those whose own sign was chosen.
template <int quad>
[[gnu::always_inline]] inline SixteenBytes sums_of_four(SixteenBytes halves) {
  constexpr int a = 4 * quad;
  constexpr int b = a + 1;
  constexpr int c = a + 2;
  constexpr int d = a + 3;
  const SixteenBytes first = __builtin_shufflevector(halves, halves, a + 8, a, a + 8, a, a + 8, a, a + 8, a, a + 8, a,
                                                     a + 8, a, a + 8, a, a + 8, a);
  const SixteenBytes second = __builtin_shufflevector(halves, halves, b + 8, b + 8, b, b, b + 8, b + 8, b, b, b + 8,
                                                      b + 8, b, b, b + 8, b + 8, b, b);
  const SixteenBytes third = __builtin_shufflevector(halves, halves, c + 8, c + 8, c + 8, c + 8, c, c, c, c, c + 8,
                                                     c + 8, c + 8, c + 8, c, c, c, c);
  const SixteenBytes fourth = __builtin_shufflevector(halves, halves, d + 8, d + 8, d + 8, d + 8, d + 8, d + 8, d + 8,
                                                      d + 8, d, d, d, d, d, d, d, d);
  return (first + second) + (third + fourth);
}

// As sums of 4 signed coordinates.
template <class V>
void query_tables(const float* x, size_t dim, QueryForms& forms) {
  constexpr float table_max = 125;  // the sum of four rounded numbers may be two more
  Eight most = {};
  for (size_t i = 0; i < dim; i += 8) {
    Eight v;
    load(x + i, v);
    v = v < 0 ? -v : v;
    v += __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
    v += __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    most = v > most ? v : most;
  }
  const float widest = most[0] > most[4] ? most[0] : most[4];
  forms.table_step = widest > 0 ? widest / table_max : 1;
  const float inverse = 1 / forms.table_step;
  EightUnsigned magnitudes = {};  // of numbers of a damaged file: anything
  for (size_t i = 0; i < dim; i += 8) {
    Eight v;
    load(x + i, v);
    EightInts numbers;
    round_eight(v * inverse, numbers);
    const EightInts above = numbers > 0 ? numbers : 0;
    const EightInts below = numbers < 0 ? ~numbers + 1 : 0;
    magnitudes += __builtin_convertvector(above, EightUnsigned) + __builtin_convertvector(below, EightUnsigned);
    const auto halves =
        __builtin_convertvector(__builtin_shufflevector(__builtin_convertvector(above, EightShorts),
                                                        __builtin_convertvector(below, EightShorts), 0, 1, 2, 3, 4, 5,
                                                        6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
                                SixteenBytes);
    auto* tables = reinterpret_cast<SixteenAnywhere*>(forms.tables + 4 * i);
    tables[0] = sums_of_four<0>(halves);
    tables[1] = sums_of_four<1>(halves);
  }
  uint32_t sum = 0;
  for (size_t k = 0; k < 8; ++k) sum += magnitudes[k];
  forms.table_offset = static_cast<int32_t>(-sum);
}

template <class V>
constexpr Quantized make_quantized() {
  return {dot_codes<V>,  sign_bounds<V>, block_bounds<V>, residual<V>,    hadamard<V>,
          mix_halves<V>, query_steps<V>, query_planes<V>, query_tables<V>};
}

}  // namespace likewise
