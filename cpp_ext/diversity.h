// The k of each query's candidates that tag caps, quotas and MMR together allow, and what every rule cost.
//
// Callers pass matching sizes. Rows and the order of distances are checked here, before a row is used as an index.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "scan.h"

namespace likewise {

// Nearest first. Row -1 and a distance of NaN or +inf are no candidates.
struct Candidates {
  std::span<const int64_t> rows;  // [n_queries, n_candidates]
  std::span<const float> distances;
  size_t n_queries;
  size_t n_candidates;
};

// Between `least` and `most` of the chosen carry this tag; `most` stands in place of the column's cap.
struct Quota {
  size_t column;
  int32_t tag;
  size_t least;
  size_t most;
};

inline constexpr size_t max_quotas = 128;  // bounds how deep an exchange recurses

struct TagRules {
  std::span<const int32_t> tags;  // [n_columns, n_rows], -1 = none
  std::span<const int32_t> caps;  // [n_columns], how often one tag may be chosen; 0 = no cap; empty = no caps
  std::span<const Quota> quotas;  // at most max_quotas, distinct; an earlier one is filled first
  size_t n_columns = 0;
};

// Maximal marginal relevance: the next choice has the least lambda * distance - (1 - lambda) * distance to the nearest
// of those chosen before.
struct Mmr {
  std::span<const float> vectors;  // [n_rows, dim]; not read when lambda is 1
  size_t dim = 0;
  Metric metric = Metric::cosine;
  double lambda = 1.0;
};

struct Diversified {
  std::span<int64_t> positions;  // [n_queries, k] among the candidates, in the order of choice; -1 = none
  std::span<float> given_up;     // [n_queries, n_columns + 2]: caps column by column, quotas, MMR
  std::span<int32_t> moved;      // as given_up
  std::span<int32_t> shortfall;  // [n_queries, n_quotas]
};

inline constexpr size_t any_row = std::numeric_limits<size_t>::max();

// n_rows bounds the rows, any_row = nothing does. Throws std::out_of_range for a row that does not exist and
// std::invalid_argument for distances that are not nearest first.
void diversify(const Candidates& candidates, const TagRules& rules, const Mmr& mmr, size_t n_rows, size_t k,
               Diversified out);

}  // namespace likewise
