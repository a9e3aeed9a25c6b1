// The function table of one instruction set, and the choice of one at run time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace likewise {

// A few queries against listed vectors: out[j * out_stride + i] belongs to query j and vector ids[i].
// Plain pointers: the files with wider flags must not instantiate inline library code that the linker could hand to
// others.
template <class T>
struct Panel {
  const float* queries;  // [n_queries, dim]
  size_t n_queries;
  size_t dim;
  const T* vectors;
  const int64_t* ids;
  size_t n_ids;
  size_t n_ahead;       // ids[n_ids : n_ids + n_ahead] will be asked for next: worth prefetching
  const float* scales;  // one a vector, null = 1; only l2 reads it
  float* out;
  size_t out_stride;
  float* norms = nullptr;  // [n_ids]; only dot_and_norm writes it
};

enum class Operator { less, less_equal, equal, greater_equal, greater, not_equal };
inline constexpr size_t n_operators = 6;

// words[w] keeps a bit r when values[64 * w + r] passes; no operator lets NaN pass.
template <class T>
using CompareWords = void (*)(const T* values, T value, uint64_t* words, size_t n_words);

template <class T>
struct Scores {
  void (*dot)(const Panel<T>&);
  void (*l2)(const Panel<T>&);
  void (*norm)(const Panel<T>&);          // out[i] = squared norm of vector ids[i]; queries are not read
  void (*dot_and_norm)(const Panel<T>&);  // both, of one query, in one pass: out and norms as the two would have them
};

// What stands behind a row's sign bits; with them it bounds a distance from below.
struct SignFactors {
  float shift;
  float slope;
  float n_ones;  // how many of the sign bits are set
};

// A query against sign bits: its coordinates in 16 steps, as bit planes.
struct SignQuery {
  const uint64_t* planes;  // [n_words, 4]: bit j of word w of plane p = bit p of coordinate 64 * w + j in steps
  size_t n_words;
  float step;
  float lowest;
  float offset;
  float constant;
};

// A query against blocks of sign bits: for every 4 coordinates a table of the 16 sums that their signs can give, in
// steps of at most 127; coordinates 8 p to 8 p + 3 and 8 p + 4 to 8 p + 7 stand at tables[32 p].
struct BlockQuery {
  const uint8_t* tables;
  size_t n_pairs;  // of tables
  float step;
  float offset;
};

// A block: 32 shifts, 32 slopes, then byte p of row i's signs at [32 p + i].
inline constexpr size_t block_rows = 32;
inline constexpr size_t block_signs = 2 * block_rows * sizeof(float);  // where they begin
constexpr size_t block_bytes(size_t n_signs) { return block_signs + block_rows * n_signs / 8; }

// Of r = x - v: what a block keeps beside its signs, which may be those of the first coordinates only.
struct ResidualSums {
  float square;      // <r, r>
  float cross;       // <r, v>
  float sum;         // of |r_i| that have signs
  float signed_sum;  // <signs of r, v>
};

// One query as the kernels read it, written at what the pointers point to and beside them.
struct QueryForms {
  // By query_steps, before the others.
  int16_t* steps;  // [dim] x in steps of `step`
  float step;
  float lowest;
  float highest;
  float sum;
  float square;      // <x, x>
  float centre_dot;  // <x, centre>
  // By query_planes.
  uint64_t* planes;  // [dim / 64, 4] of a SignQuery; x = lowest + plane_step * its number
  float plane_step;
  // By query_tables.
  uint8_t* tables;  // [dim / 8, 32] of a BlockQuery, in steps of table_step
  float table_step;
  int32_t table_offset;  // <signs, x> = table_step * (2 * looked up + table_offset)
};

// Rows of 8-bit codes and of sign bits; the formulas stand in graph/rows.h and graph/blocks.h.
struct Quantized {
  void (*dots)(const int16_t* query, const int8_t* codes, size_t dim, const uint32_t* ids, size_t n_ids, int32_t* out);
  void (*sign_bounds)(const SignQuery& query, const unsigned char* records, size_t stride, const uint32_t* ids,
                      size_t n_ids, float* out);
  // out[i] = base + shift[i] - slope[i] * (<signs of row i, query> + reach) of the block's 32 rows.
  void (*block_bounds)(const BlockQuery& query, const unsigned char* block, float base, float reach, float* out);
  // x = codes * scale + fine * fine_scale; byte p of the n_signs signs, of the first coordinates, goes to
  // bits[block_rows * p]. n_signs a multiple of 8.
  void (*residual)(const int8_t* codes, const int8_t* fine, float scale, float fine_scale, const float* from,
                   size_t dim, size_t n_signs, unsigned char* bits, ResidualSums& sums);
  void (*hadamard)(float* x, const float* by, float* out, size_t n);
  void (*mix_halves)(float* x, size_t n);
  // dim a multiple of 64; the largest coordinate becomes step_max steps.
  void (*query_steps)(const float* x, const float* centre, size_t dim, float step_max, QueryForms& forms);
  void (*query_planes)(const float* x, size_t dim, QueryForms& forms);
  void (*query_tables)(const float* x, size_t dim, QueryForms& forms);
};

// out[s] = CRC-32C of the n_bytes at data + s * n_bytes.
using Crc32cStreams = void (*)(const uint8_t* data, size_t n_bytes, size_t n_streams, uint32_t* out);

struct Simd {
  const char* name;
  Scores<float> f32;
  Scores<int8_t> i8;
  CompareWords<int64_t> compare_i64[n_operators];
  CompareWords<float> compare_f32[n_operators];
  CompareWords<double> compare_f64[n_operators];
  size_t (*count)(const uint64_t* words, size_t n_words);
  Crc32cStreams crc32c;
  Quantized quantized;
};

const Simd& scalar_simd();
const Simd& avx2_simd();
const Simd& avx512_simd();
const Simd& avx512_vnni_simd();
const Simd& neon_simd();

void crc32c_table(const uint8_t* data, size_t n_bytes, size_t n_streams, uint32_t* out);
void crc32c_sse42(const uint8_t* data, size_t n_bytes, size_t n_streams, uint32_t* out);
void crc32c_arm(const uint8_t* data, size_t n_bytes, size_t n_streams, uint32_t* out);

// The best table that CPU, OS and the environment variable LIKEWISE_SIMD allow; chosen once.
// Throws std::invalid_argument for an unknown LIKEWISE_SIMD.
const Simd& simd();

}  // namespace likewise
