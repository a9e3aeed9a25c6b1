#include "bitmap.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

namespace likewise {
namespace {

template <class Row>
void check_rows(const char* operation, Bitmap bitmap, std::span<const Row> rows) {
  const size_t n = bitmap.size() * word_bits;
  Row lowest = 0;
  Row highest = 0;
  for (const Row row : rows) {
    lowest = std::min(lowest, row);
    highest = std::max(highest, row);
  }
  if (lowest < 0 || static_cast<uint64_t>(highest) >= std::max<size_t>(n, 1) || (n == 0 && !rows.empty())) {
    throw std::out_of_range(std::string("[") + operation + "] rows holds " +
                            std::to_string(lowest < 0 ? lowest : highest) + "; expected 0 <= row < " +
                            std::to_string(n) + ", the bits of this bitmap");
  }
}

}  // namespace

void fill(Bitmap bitmap, size_t n_rows) {
  for (size_t w = 0; w < bitmap.size(); ++w) bitmap[w] = live_bits(w, n_rows);
}

template <class Row>
void set_rows(Bitmap bitmap, std::span<const Row> rows) {
  check_rows("set_rows", bitmap, rows);
  for (const Row row : rows) bitmap[static_cast<size_t>(row) / word_bits] |= uint64_t{1} << (row % word_bits);
}

template <class Row>
void clear_rows(Bitmap bitmap, std::span<const Row> rows) {
  check_rows("clear_rows", bitmap, rows);
  for (const Row row : rows) bitmap[static_cast<size_t>(row) / word_bits] &= ~(uint64_t{1} << (row % word_bits));
}

void intersect(Bitmap bitmap, ConstBitmap other) {
  for (size_t w = 0; w < bitmap.size(); ++w) bitmap[w] &= other[w];
}

void unite(Bitmap bitmap, ConstBitmap other) {
  for (size_t w = 0; w < bitmap.size(); ++w) bitmap[w] |= other[w];
}

size_t count(ConstBitmap bitmap, size_t n_rows) {
  const size_t n_whole = n_rows / word_bits;
  size_t n = simd().count(bitmap.data(), n_whole);
  if (n_whole < bitmap.size()) n += static_cast<size_t>(std::popcount(bitmap[n_whole] & live_bits(n_whole, n_rows)));
  return n;
}

void rows_of(ConstBitmap bitmap, size_t n_rows, std::span<int64_t> out) {
  size_t n = 0;
  for_each_row(bitmap, n_rows, 0, bitmap.size(), [&](int64_t row) { out[n++] = row; });
}

template <class T>
void compare(Bitmap bitmap, std::span<const T> values, Operator op, T value) {
  const Simd& table = simd();
  const CompareWords<T> keep = [&] {
    const auto at = static_cast<size_t>(op);
    if constexpr (std::is_same_v<T, int64_t>) return table.compare_i64[at];
    if constexpr (std::is_same_v<T, float>) return table.compare_f32[at];
    if constexpr (std::is_same_v<T, double>) return table.compare_f64[at];
  }();
  const size_t n_whole = values.size() / word_bits;
  keep(values.data(), value, bitmap.data(), n_whole);
  if (n_whole < bitmap.size()) {
    std::array<T, word_bits> rest{};
    std::copy(values.begin() + static_cast<std::ptrdiff_t>(n_whole * word_bits), values.end(), rest.begin());
    bitmap[n_whole] &= live_bits(n_whole, values.size());
    keep(rest.data(), value, &bitmap[n_whole], 1);
  }
}

template void set_rows(Bitmap, std::span<const int32_t>);
template void set_rows(Bitmap, std::span<const int64_t>);
template void clear_rows(Bitmap, std::span<const int32_t>);
template void clear_rows(Bitmap, std::span<const int64_t>);
template void compare(Bitmap, std::span<const int64_t>, Operator, int64_t);
template void compare(Bitmap, std::span<const float>, Operator, float);
template void compare(Bitmap, std::span<const double>, Operator, double);

}  // namespace likewise
