// Scores of an inverted index.
#pragma once

#include <cstdint>
#include <span>

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

}  // namespace likewise
