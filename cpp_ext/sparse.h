// Scores of an inverted index, and the best of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "bitmap.h"

namespace likewise {

struct Postings {
  std::span<const int64_t> offsets;  // [n_terms + 1]; term t owns entries offsets[t] : offsets[t + 1]
  std::span<const int32_t> rows;
  std::span<const float> weights;
};

// out[r] = sum over the terms of weight * term_weight, added term by term. Writes all of out.
// Throws std::out_of_range for a term or row that does not exist, std::invalid_argument for bad offsets of a term.
void sparse_scores(const Postings& postings, std::span<const int64_t> terms, std::span<const float> term_weights,
                   std::span<float> out);

// The rows of the greatest scores above 0, greatest first, ties by row, and the scores negated. A mask without words
// lets every row pass. Returns how many there are, at most rows.size(); what is left is filled with row -1, distance
// +inf.
size_t best_scores(std::span<const float> scores, ConstBitmap mask, std::span<int64_t> rows,
                   std::span<float> distances);

}  // namespace likewise
