#include "sparse.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace likewise {

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

}  // namespace likewise
