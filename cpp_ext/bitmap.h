// Sets of rows, one bit a row: bit r % 64 of word r / 64. Bits at and above n_rows are ignored on reading.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "simd.h"

namespace likewise {

using Bitmap = std::span<uint64_t>;
using ConstBitmap = std::span<const uint64_t>;

inline constexpr size_t word_bits = 64;

constexpr size_t words_for(size_t n_rows) { return n_rows / word_bits + (n_rows % word_bits != 0); }

// The bits of word w that belong to rows below n_rows.
constexpr uint64_t live_bits(size_t w, size_t n_rows) {
  const size_t left = n_rows - w * word_bits;
  return left >= word_bits ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
}

// Calls visit(row) in ascending order for each row below n_rows in words [first, last).
template <class Visit>
void for_each_row(ConstBitmap bitmap, size_t n_rows, size_t first, size_t last, Visit&& visit) {
  for (size_t w = first; w < last; ++w) {
    uint64_t bits = bitmap[w];
    if (bits == 0) continue;
    bits &= live_bits(w, n_rows);
    for (; bits != 0; bits &= bits - 1) {
      visit(static_cast<int64_t>(w * word_bits + static_cast<size_t>(std::countr_zero(bits))));
    }
  }
}

void fill(Bitmap bitmap, size_t n_rows);

// Row is int32_t or int64_t. Throws std::out_of_range, before anything changes, when a row has no word.
template <class Row>
void set_rows(Bitmap bitmap, std::span<const Row> rows);
template <class Row>
void clear_rows(Bitmap bitmap, std::span<const Row> rows);

void intersect(Bitmap bitmap, ConstBitmap other);
void unite(Bitmap bitmap, ConstBitmap other);

size_t count(ConstBitmap bitmap, size_t n_rows);
void rows_of(ConstBitmap bitmap, size_t n_rows, std::span<int64_t> out);

// Keeps the rows with `values[r] op value`; NaN passes nothing. T is int64_t, float or double.
template <class T>
void compare(Bitmap bitmap, std::span<const T> values, Operator op, T value);

}  // namespace likewise
