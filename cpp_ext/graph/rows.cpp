#include "graph/rows.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "graph/parallel.h"

namespace likewise {
namespace {

constexpr float code_max = 127;
constexpr float fine_steps = 254;  // of one step of the codes, whose remainder is at most half a step
constexpr size_t sample_limit = 100'000;
constexpr float unit_slack = 1e-3F;  // lengths this close to the greatest need no lift

// A multiple of 64 dims fills a cache line at 384 of them.
size_t sign_bytes(size_t padded) {
  const size_t bytes = padded / 8 + sizeof(SignFactors);
  return bytes <= 32 ? 32 : (bytes + 63) / 64 * 64;
}

float dot(const float* a, const float* b, size_t n) {
  float sums[8] = {};
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (size_t j = 0; j < 8; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (; i < n; ++i) sums[0] += a[i] * b[i];
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

float largest(const float* x, size_t n) {
  float most = 0;
  for (size_t i = 0; i < n; ++i) most = std::max(most, std::fabs(x[i]));
  return most;
}

// The largest 16-bit step whose product sums with 8-bit codes stay within 32 bits, even with the -128 of a damaged
// file.
float step_max(size_t padded) {
  return std::min(32767.0F, std::floor(2147483520.0F / ((code_max + 1) * static_cast<float>(padded))));
}

}  // namespace

FineFile::FineFile(int file, uint64_t offset) : file_(fcntl(file, F_DUPFD_CLOEXEC, 0)), offset_(offset) {
#if defined(POSIX_FADV_RANDOM)
  if (file_ >= 0) posix_fadvise(file_, 0, 0, POSIX_FADV_RANDOM);
#endif
}

FineFile::~FineFile() {
  if (file_ >= 0) close(file_);
}

bool FineFile::read(uint64_t at, int8_t* out, size_t n) const {
  return pread(file_, out, n, static_cast<off_t>(offset_ + at)) == static_cast<ssize_t>(n);
}

QuantizedRows::QuantizedRows(size_t dim, Metric metric, uint64_t seed)
    : rotation_(dim, seed),
      metric_(metric),
      padded_(rotation_.padded_dim()),
      sign_stride_(sign_bytes(padded_)),
      centre_(padded_, 0.0F) {}

void QuantizedRows::borrow(const Arrays& arrays) {
  codes_.borrow(arrays.codes);
  fine_.borrow(arrays.fine);
  signs_.borrow(arrays.signs);
  sign_blocks_.borrow(arrays.sign_blocks);
  factors_.borrow({reinterpret_cast<const RowFactors*>(arrays.factors.data()), arrays.factors.size() / 3});
  centre_.assign(arrays.centre.begin(), arrays.centre.end());
  centre_square_ = dot(centre_.data(), centre_.data(), padded_);
  longest_ = arrays.longest;
  is_learnt_ = size() != 0;
}

void QuantizedRows::rank_from(int file, uint64_t offset) { fine_file_ = FineFile(file, offset); }

const int8_t* QuantizedRows::fetch_fine(uint32_t row, int8_t* buffer) const {
  const bool is_read = fine_file_ && fine_file_.read(static_cast<uint64_t>(row) * padded_, buffer, padded_);
  return is_read ? buffer : fine_of(row);
}

QuantizedRows::Arrays QuantizedRows::arrays() const {
  return {codes_.span(),
          fine_.span(),
          signs_.span(),
          sign_blocks_.span(),
          {reinterpret_cast<const float*>(factors_.data()), 3 * factors_.size()},
          centre_,
          longest_};
}

size_t QuantizedRows::owned_bytes() const {
  return codes_.owned_bytes() + fine_.owned_bytes() + signs_.owned_bytes() + sign_blocks_.owned_bytes() +
         factors_.owned_bytes();
}

void QuantizedRows::learn(const float* vectors, size_t n) {
  is_learnt_ = n != 0;
  const size_t dim = rotation_.dim();
  const size_t stride = std::max<size_t>(1, n / sample_limit);
  std::vector<double> sum(dim);
  double count = 0;
  float longest = 0;
  for (size_t row = 0; row < n; ++row) {
    const float* vector = vectors + row * dim;
    const bool is_sampled = row % stride == 0;
    if (metric_ != Metric::ip && !is_sampled) continue;
    const float square = dot(vector, vector, dim);
    longest = std::max(longest, square);
    if (!is_sampled) continue;
    const float scale = metric_ == Metric::cosine ? (square > 0 ? 1 / std::sqrt(square) : 0) : 1;
    for (size_t i = 0; i < dim; ++i) sum[i] += vector[i] * scale;
    ++count;
  }
  longest_ = metric_ == Metric::ip && longest > 0 ? std::sqrt(longest) : 1;
  std::vector<float> mean(dim);
  for (size_t i = 0; i < dim; ++i) mean[i] = static_cast<float>(sum[i] / std::max(count, 1.0));
  rotation_.apply(mean.data(), centre_.data());
  centre_square_ = dot(centre_.data(), centre_.data(), padded_);
}

void QuantizedRows::learn_from(const QuantizedRows& other) {
  centre_ = other.centre_;
  centre_square_ = other.centre_square_;
  longest_ = other.longest_;
  is_learnt_ = true;
}

void QuantizedRows::reserve(size_t n) {
  codes_.reserve(n * padded_);
  fine_.reserve(n * padded_);
  signs_.reserve(n * sign_stride_);
  sign_blocks_.reserve(blocks_of(n) * block_bytes(padded_));
  factors_.reserve(n);
}

void QuantizedRows::resize(size_t n) {
  fine_file_ = {};
  codes_.own();
  fine_.own();
  signs_.own();
  sign_blocks_.own();
  factors_.own();
  codes_.resize(n * padded_);
  fine_.resize(n * padded_);
  signs_.resize(n * sign_stride_);
  sign_blocks_.resize(blocks_of(n) * block_bytes(padded_));
  factors_.resize(n);
}

void QuantizedRows::load() {
  codes_.own();
  signs_.own();
  sign_blocks_.own();
  factors_.own();
  if (!fine_file_) fine_.own();
}

void QuantizedRows::append(const float* vectors, size_t n, size_t n_threads) {
  const size_t first_row = size();
  resize(first_row + n);
  const size_t dim = rotation_.dim();
  in_chunks(n, 256, n_threads, [&](size_t first, size_t last, size_t) {
    std::vector<float> scaled(dim);
    std::vector<float> rotated(padded_);
    for (size_t i = first; i < last; ++i) {
      const float* vector = vectors + i * dim;
      float square = dot(vector, vector, dim);
      if (metric_ == Metric::cosine && square > 0) {
        const float scale = 1 / std::sqrt(square);
        for (size_t j = 0; j < dim; ++j) scaled[j] = vector[j] * scale;
        vector = scaled.data();
        square = 1;
      }
      rotation_.apply(vector, rotated.data());
      for (size_t j = 0; j < padded_; ++j) rotated[j] -= centre_[j];
      encode(first_row + i, rotated.data(), square);
    }
  });
}

// `gap` is the rotated row less the centre; `length_square` that of the row as it was given.
void QuantizedRows::encode(size_t row, const float* gap, float length_square) {
  int8_t* codes = codes_.writable() + row * padded_;
  int8_t* fine = fine_.writable() + row * padded_;
  const float most = largest(gap, padded_);
  const float scale = most > 0 ? most / code_max : 1;
  const float inverse = 1 / scale;
  for (size_t i = 0; i < padded_; ++i) {
    const float steps = gap[i] * inverse;
    const auto code = static_cast<int>(std::lrint(std::clamp(steps, -code_max, code_max)));
    const float rest = (steps - static_cast<float>(code)) * fine_steps;
    codes[i] = static_cast<int8_t>(code);
    fine[i] = static_cast<int8_t>(std::lrint(std::clamp(rest, -code_max, code_max)));
  }

  unsigned char* record = signs_.writable() + row * sign_stride_;
  auto* words = reinterpret_cast<uint64_t*>(record);
  std::fill_n(words, padded_ / 64, uint64_t{0});
  double square = 0;
  double sum = 0;
  double centre_dot = 0;
  size_t n_ones = 0;
  for (size_t i = 0; i < padded_; ++i) {
    const double value = gap[i];
    square += value * value;
    sum += std::fabs(value);
    centre_dot += value * centre_[i];
    if (value < 0) continue;
    words[i / 64] |= uint64_t{1} << (i % 64);
    ++n_ones;
  }
  const bool is_euclidean = metric_ == Metric::l2;
  const float lift_square = longest_ * longest_ - length_square;
  const bool has_lift = !is_euclidean && lift_square > unit_slack * longest_ * longest_;
  const auto own = static_cast<float>(is_euclidean ? square : -2 * centre_dot);
  factors_.writable()[row] = {scale, own, has_lift ? std::sqrt(lift_square) : 0.0F};
  // <row, v> is about slope / 2 * <signs, v> for any v.
  const SignFactors factors{own, static_cast<float>(sum > 0 ? 2 * square / sum : 0), static_cast<float>(n_ones)};
  std::memcpy(record + padded_ / 8, &factors, sizeof(factors));
  put_in_block(row);
}

void QuantizedRows::put_in_block(size_t row) {
  const unsigned char* record = signs_.data() + row * sign_stride_;
  unsigned char* block = sign_blocks_.writable() + row / block_rows * block_bytes(padded_);
  const size_t at = row % block_rows;
  SignFactors factors;
  std::memcpy(&factors, record + padded_ / 8, sizeof(factors));
  auto* shifts = reinterpret_cast<float*>(block);
  shifts[at] = factors.shift;
  shifts[block_rows + at] = factors.slope;
  unsigned char* bits = block + block_signs + at;
  for (size_t byte = 0; byte < padded_ / 8; ++byte) bits[block_rows * byte] = record[byte];
}

void QuantizedRows::take(const QuantizedRows& other, std::span<const int64_t> rows) {
  learn_from(other);
  is_learnt_ = !rows.empty();
  resize(rows.size());
  for (size_t to = 0; to < rows.size(); ++to) {
    const auto from = static_cast<size_t>(rows[to]);
    std::memcpy(codes_.writable() + to * padded_, other.codes_.data() + from * padded_, padded_);
    std::memcpy(fine_.writable() + to * padded_, other.fine_.data() + from * padded_, padded_);
    std::memcpy(signs_.writable() + to * sign_stride_, other.signs_.data() + from * sign_stride_, sign_stride_);
    factors_.writable()[to] = other.factors_[from];
    put_in_block(to);
  }
}

void QuantizedRows::prepare(const float* query, PreparedQuery& out) const {
  out.rotated.resize(padded_);
  rotation_.apply(query, out.rotated.data());
  out.unscaled = 1;
  out.lift = 0;
  float scale = 1;
  if (metric_ != Metric::l2) {
    const float length = std::sqrt(dot(out.rotated.data(), out.rotated.data(), padded_));
    scale = length > 0 ? longest_ / length : 0;
    if (metric_ == Metric::ip) out.unscaled = length / longest_;
  }
  for (size_t i = 0; i < padded_; ++i) out.rotated[i] = out.rotated[i] * scale - centre_[i];
  finish(out);
}

void QuantizedRows::prepare_row(size_t row, PreparedQuery& out) const {
  out.rotated.resize(padded_);
  gap(row, out.rotated.data());
  out.unscaled = 1;
  out.lift = factors_[row].lift;
  finish(out);
}

void QuantizedRows::finish(PreparedQuery& out) const {
  out.steps.resize(padded_);
  out.has_planes = false;
  out.n_tabled = 0;
  QueryForms& forms = out.forms;
  forms.steps = out.steps.data();
  simd().quantized.query_steps(out.rotated.data(), centre_.data(), padded_, step_max(padded_), forms);
  out.reach = std::sqrt(forms.square);
  out.own = metric_ == Metric::l2 ? forms.square : pair_constant() - 2 * forms.centre_dot;
  out.margin = 0;
}

void QuantizedRows::add_planes(PreparedQuery& query) const {
  if (std::exchange(query.has_planes, true)) return;
  query.planes.resize(padded_ / 16);
  QueryForms& forms = query.forms;
  forms.planes = query.planes.data();
  simd().quantized.query_planes(query.rotated.data(), padded_, forms);
  query.sign = {forms.planes, padded_ / 64, 2 * forms.plane_step, 2 * forms.lowest, -forms.sum, query.own};
}

void QuantizedRows::add_tables(PreparedQuery& query, size_t n_signs) const {
  if (std::exchange(query.n_tabled, n_signs) == n_signs) return;
  query.tables.resize(4 * n_signs);
  QueryForms& forms = query.forms;
  forms.tables = query.tables.data();
  simd().quantized.query_tables(query.rotated.data(), n_signs, forms);
  query.block = {forms.tables, n_signs / 8, 2 * forms.table_step,
                 forms.table_step * static_cast<float>(forms.table_offset)};
}

void QuantizedRows::gap(size_t row, float* out) const {
  const int8_t* codes = codes_.data() + row * padded_;
  const int8_t* fine = fine_.data() + row * padded_;
  const float scale = factors_[row].scale;
  for (size_t i = 0; i < padded_; ++i) out[i] = scale * (codes[i] + fine[i] * (1 / fine_steps));
}

void QuantizedRows::residual(size_t row, const float* gap, size_t n_signs, unsigned char* bits,
                             ResidualSums& sums) const {
  const float scale = factors_[row].scale;
  simd().quantized.residual(codes_.data() + row * padded_, fine_.data() + row * padded_, scale, scale / fine_steps, gap,
                            padded_, n_signs, bits, sums);
}

void QuantizedRows::restore(size_t row, float* vector) const {
  std::vector<float> rotated(padded_);
  gap(row, rotated.data());
  for (size_t i = 0; i < padded_; ++i) rotated[i] += centre_[i];
  rotation_.undo(rotated.data(), vector);
}

void QuantizedRows::bounds(const PreparedQuery& query, const uint32_t* rows, size_t n, float* out) const {
  SignQuery sign = query.sign;
  sign.offset += sign_deviation * query.margin * query.reach;
  simd().quantized.sign_bounds(sign, signs_.data(), sign_stride_, rows, n, out);
  if (query.lift == 0) return;
  for (size_t i = 0; i < n; ++i) out[i] -= 2 * query.lift * factors_[rows[i]].lift;
}

void QuantizedRows::block_bounds(const PreparedQuery& query, size_t block, float* out) const {
  simd().quantized.block_bounds(query.block, sign_blocks_.data() + block * block_bytes(padded_), query.own,
                                sign_deviation * query.margin * query.reach, out);
}

void QuantizedRows::distances(const PreparedQuery& query, const uint32_t* rows, size_t n, int32_t* dots,
                              float* out) const {
  simd().quantized.dots(query.steps.data(), codes_.data(), padded_, rows, n, dots);
  for (size_t i = 0; i < n; ++i) {
    const RowFactors& factors = factors_[rows[i]];
    const float product = static_cast<float>(dots[i]) * (query.forms.step * factors.scale) + query.lift * factors.lift;
    out[i] = query.own + factors.own - 2 * product;
  }
}

float QuantizedRows::answer(const PreparedQuery& query, uint32_t row, const int8_t* fine) const {
  int32_t coarse = 0;
  int32_t rest = 0;
  const auto dots = simd().quantized.dots;
  dots(query.steps.data(), codes_.data(), padded_, &row, 1, &coarse);
  const uint32_t only = 0;
  dots(query.steps.data(), fine, padded_, &only, 1, &rest);
  const RowFactors& factors = factors_[row];
  const double product = (coarse + rest * static_cast<double>(1 / fine_steps)) *
                         (static_cast<double>(query.forms.step) * static_cast<double>(factors.scale));
  if (metric_ == Metric::l2) {
    return static_cast<float>(std::max(static_cast<double>(query.own) + factors.own - 2 * product, 0.0));
  }
  const double whole = product + query.forms.centre_dot + centre_square_ - 0.5 * factors.own;
  return static_cast<float>(metric_ == Metric::cosine ? 1 - whole : -whole * query.unscaled);
}

// Rounding errs by scale / sqrt(12) a coordinate, independently: three standard deviations of 2 <query, row>.
float QuantizedRows::error(const PreparedQuery& query, uint32_t row) const {
  return 1.75F * factors_[row].scale * query.reach;
}

void QuantizedRows::widen(uint32_t row, int16_t* wide) const {
  const int8_t* codes = codes_.data() + static_cast<size_t>(row) * padded_;
  for (size_t i = 0; i < padded_; ++i) wide[i] = codes[i];
}

void QuantizedRows::pair_distances(uint32_t row, const int16_t* wide, const uint32_t* rows, size_t n, int32_t* dots,
                                   float* out) const {
  simd().quantized.dots(wide, codes_.data(), padded_, rows, n, dots);
  const RowFactors& own = factors_[row];
  for (size_t i = 0; i < n; ++i) {
    const RowFactors& other = factors_[rows[i]];
    const float product = static_cast<float>(dots[i]) * (own.scale * other.scale) + own.lift * other.lift;
    out[i] = pair_constant() + own.own + other.own - 2 * product;
  }
}

}  // namespace likewise
