#include "sparse.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "topk.h"

namespace likewise {

namespace {

// Compilers make vectors of it, which they do not of a loop that ends early.
bool any_above(std::span<const float> scores, float least) {
  int found = 0;
  for (const float score : scores) found |= static_cast<int>(score > least);
  return found != 0;
}

}  // namespace

void sparse_scores(const Postings& postings, std::span<const int64_t> terms, std::span<const float> term_weights,
                   std::span<float> out) {
  std::fill(out.begin(), out.end(), 0.0F);
  const size_t n_terms = postings.offsets.size() - 1;
  const size_t n_entries = postings.rows.size();
  for (size_t i = 0; i < terms.size(); ++i) {
    const int64_t term = terms[i];
    if (term < 0 || static_cast<size_t>(term) >= n_terms) {
      throw std::out_of_range("[sparse_scores] terms holds " + std::to_string(term) + "; expected 0 <= term < " +
                              std::to_string(n_terms));
    }
    const int64_t first = postings.offsets[static_cast<size_t>(term)];
    const int64_t last = postings.offsets[static_cast<size_t>(term) + 1];
    if (first < 0 || last < first || static_cast<size_t>(last) > n_entries) {
      throw std::invalid_argument("[sparse_scores] offsets gives term " + std::to_string(term) + " the entries " +
                                  std::to_string(first) + ":" + std::to_string(last) +
                                  "; expected ascending within 0:" + std::to_string(n_entries));
    }
    const float term_weight = term_weights[i];
    for (auto e = static_cast<size_t>(first); e < static_cast<size_t>(last); ++e) {
      const auto row = static_cast<uint32_t>(postings.rows[e]);
      if (row >= out.size()) {
        throw std::out_of_range("[sparse_scores] rows holds " + std::to_string(postings.rows[e]) +
                                "; expected 0 <= row < " + std::to_string(out.size()));
      }
      out[row] += postings.weights[e] * term_weight;
    }
  }
}

size_t best_scores(std::span<const float> scores, ConstBitmap mask, std::span<int64_t> rows,
                   std::span<float> distances) {
  TopK best(std::min(rows.size(), scores.size()));
  float least = 0;  // a later row with the score of the k-th loses the tie
  for (size_t w = 0; w < words_for(scores.size()); ++w) {
    uint64_t bits = (mask.empty() ? ~uint64_t{0} : mask[w]) & live_bits(w, scores.size());
    const size_t first = w * word_bits;
    if (bits == 0 || !any_above(scores.subspan(first, std::min(word_bits, scores.size() - first)), least)) continue;
    for (; bits != 0; bits &= bits - 1) {
      const size_t row = first + static_cast<size_t>(std::countr_zero(bits));
      if (!(scores[row] > least)) continue;
      best.push({-scores[row], static_cast<int64_t>(row)});
      least = std::max(0.0F, -best.bound().distance);
    }
  }
  best.finish(rows, distances);
  return static_cast<size_t>(std::find(rows.begin(), rows.end(), -1) - rows.begin());
}

}  // namespace likewise
