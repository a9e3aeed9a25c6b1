// Vectors as the graph search reads them: rotated, then in three precisions laid out apart, so that a search touches
// the cheap one often and the dear ones rarely.
//
//   signs   1 bit a coordinate of (row - centre) and three factors: one cache line at 384 dimensions; bounds a
//   distance.
//           The same again in blocks of 32 rows that follow each other, for scans of many
//   codes   8 bits a coordinate and one scale a row: orders the candidates
//   fine    8 bits more, the remainder of the codes: the distances that are answered, to about 2^-15 of a row's largest
//           coordinate
//
// Rows and queries are taken less the centre c, the mean row. All distances inside are squared Euclidean ones,
// D = query.own + row.own - 2 <query - c, row - c>. For inner products a row of length l stands for
// (row, sqrt(L^2 - l^2)), L the greatest length, and a query is brought to length L: D = 2 L^2 - 2 <query, row>, the
// same order. Cosine is the inner product of unit vectors.
//
// Source: bounds from signs: Gao and Long, RaBitQ, SIGMOD 2024 (estimator of section 3.2, here around one centre);
// inner product as Euclidean distance: Bachrach et al., RecSys 2014.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "graph/huge_array.h"
#include "graph/prefetch.h"
#include "graph/rotation.h"
#include "scan.h"
#include "simd.h"

namespace likewise {

struct RowFactors {
  float scale;  // of the codes
  float own;    // the row's part of D
  float lift;   // the coordinate beyond the vector: sqrt(L^2 - |row|^2) for inner products
};

// One query in the forms a search needs. Reused from query to query: no allocation after the first.
struct PreparedQuery {
  std::vector<float> rotated;    // less the centre
  std::vector<int16_t> steps;    // the query in 16 bits
  std::vector<uint64_t> planes;  // and in 4, as bit planes
  std::vector<uint8_t> tables;   // and as sums of 4 signed coordinates
  bool has_planes = false;
  size_t n_tabled = 0;  // of how many coordinates; 0 = not made yet
  QueryForms forms{};
  SignQuery sign{};
  BlockQuery block{};
  float own = 0;       // the query's part of D
  float lift = 0;      // 0 but for a row that asks for its own neighbours
  float reach = 0;     // |query - centre|
  float unscaled = 1;  // length of the query as given / L, for inner products
  float margin = 0;    // deviations that bounds lie below the estimate
};

// Signs see a random projection of what they do not know: sqrt(1 - 2 / pi) of |v| is one standard deviation of
// <signs, v>; of the signs of a part f of the coordinates sqrt(f (1 - 2 f / pi)), which is at most 4 % more.
inline constexpr float sign_deviation = 0.6028F;

// A file that stays open, or none.
class FineFile {
 public:
  FineFile() = default;
  FineFile(int file, uint64_t offset);
  FineFile(FineFile&& other) noexcept : file_(std::exchange(other.file_, -1)), offset_(other.offset_) {}
  FineFile& operator=(FineFile&& other) noexcept {
    std::swap(file_, other.file_);
    std::swap(offset_, other.offset_);
    return *this;
  }
  ~FineFile();
  explicit operator bool() const { return file_ >= 0; }
  bool read(uint64_t at, int8_t* out, size_t n) const;

 private:
  int file_ = -1;
  uint64_t offset_ = 0;
};

class QuantizedRows {
 public:
  QuantizedRows(size_t dim, Metric metric, uint64_t seed);

  // What a sealed file holds, borrowed; sizes are the caller's to check.
  struct Arrays {
    std::span<const int8_t> codes;
    std::span<const int8_t> fine;
    std::span<const unsigned char> signs;
    std::span<const unsigned char> sign_blocks;
    std::span<const float> factors;  // [n, 3]
    std::span<const float> centre;   // [padded_dim]
    float longest;
  };
  void borrow(const Arrays& arrays);
  // From now on rows to be answered are read from the file where `fine` begins at `offset`, and not from memory.
  void rank_from(int file, uint64_t offset);
  Arrays arrays() const;

  size_t size() const { return factors_.size(); }
  size_t dim() const { return rotation_.dim(); }
  size_t padded_dim() const { return padded_; }
  size_t sign_stride() const { return sign_stride_; }
  size_t n_blocks() const { return blocks_of(size()); }
  Metric metric() const { return metric_; }
  size_t owned_bytes() const;

  // Learns centre and greatest length; before the first append.
  void learn(const float* vectors, size_t n);
  void learn_from(const QuantizedRows& other);  // what it has learnt
  bool is_learnt() const { return is_learnt_; }
  // Finite vectors [n, dim]; may be larger than memory: read once, in order.
  void append(const float* vectors, size_t n, size_t n_threads);
  void reserve(size_t n);
  void resize(size_t n);
  void load();  // copies what is borrowed, less what is read from a file
  // The listed rows of another, in that order.
  void take(const QuantizedRows& other, std::span<const int64_t> rows);

  void prepare(const float* query, PreparedQuery& out) const;
  void prepare_row(size_t row, PreparedQuery& out) const;
  // What bounds() of such a query reads, and what blocks of the first n_signs signs do; nothing where it is there.
  void add_planes(PreparedQuery& query) const;
  void add_tables(PreparedQuery& query, size_t n_signs) const;

  void restore(size_t row, float* vector) const;  // the vector as it was given; of unit length for cosine
  void gap(size_t row, float* out) const;         // row - centre, rotated: [padded_dim]
  // Of row less the row whose gap is given: the first n_signs signs, as a block holds them, and their sums.
  void residual(size_t row, const float* gap, size_t n_signs, unsigned char* bits, ResidualSums& sums) const;
  float own(size_t row) const { return factors_[row].own; }

  [[gnu::always_inline]] void prefetch_sign(uint32_t row) const {
    prefetch_bytes(signs_.data() + static_cast<size_t>(row) * sign_stride_, sign_stride_);
  }
  [[gnu::always_inline]] void prefetch_code(uint32_t row) const {
    prefetch_bytes(codes_.data() + static_cast<size_t>(row) * padded_, padded_);
    prefetch_bytes(factors_.data() + row, 1);
  }
  [[gnu::always_inline]] void prefetch_fine(uint32_t row) const {
    prefetch_bytes(fine_.data() + static_cast<size_t>(row) * padded_, padded_);
  }

  // Rows are below size(). Lower bounds of D, the query's margin below the estimate.
  void bounds(const PreparedQuery& query, const uint32_t* rows, size_t n, float* out) const;
  // The same of rows 32 * block to 32 * block + 31, whether they are there or not.
  void block_bounds(const PreparedQuery& query, size_t block, float* out) const;
  // D from the codes; `dots` is scratch of n.
  void distances(const PreparedQuery& query, const uint32_t* rows, size_t n, int32_t* dots, float* out) const;
  // What is answered, from codes and fine together: in the metric's own terms.
  float answer(const PreparedQuery& query, uint32_t row) const { return answer(query, row, fine_of(row)); }
  float answer(const PreparedQuery& query, uint32_t row, const int8_t* fine) const;
  // Where the fine part of a row lies, or, where it stays in a file, `buffer`, [padded_dim], into which it was read.
  const int8_t* fetch_fine(uint32_t row, int8_t* buffer) const;
  // How far D from the codes can be from D of the vectors.
  float error(const PreparedQuery& query, uint32_t row) const;
  // D between rows: `wide` holds the codes of `row` in 16 bits.
  void widen(uint32_t row, int16_t* wide) const;
  void pair_distances(uint32_t row, const int16_t* wide, const uint32_t* rows, size_t n, int32_t* dots,
                      float* out) const;

 private:
  static size_t blocks_of(size_t n) { return (n + block_rows - 1) / block_rows; }
  void encode(size_t row, const float* gap, float length_square);
  void put_in_block(size_t row);
  void finish(PreparedQuery& out) const;

  const int8_t* fine_of(uint32_t row) const { return fine_.data() + static_cast<size_t>(row) * padded_; }

  // What D between two rows holds beyond their own parts.
  float pair_constant() const { return metric_ == Metric::l2 ? 0 : 2 * (longest_ * longest_ - centre_square_); }

  Rotation rotation_;
  Metric metric_;
  size_t padded_;
  size_t sign_stride_;
  bool is_learnt_ = false;
  float longest_ = 1;  // L
  float centre_square_ = 0;
  std::vector<float> centre_;
  HugeArray<int8_t> codes_;
  HugeArray<int8_t> fine_;
  FineFile fine_file_;
  HugeArray<unsigned char> signs_;
  HugeArray<unsigned char> sign_blocks_;
  HugeArray<RowFactors> factors_;
};

}  // namespace likewise
