#include "graph/walk.h"

#include <algorithm>
#include <bit>
#include <limits>

namespace likewise {
namespace {

constexpr size_t n_starts = 4;
constexpr size_t most_scored = 12;  // of one row's links, while the limit is loose; more found nothing more
constexpr size_t n_spare = 24;      // kept beyond k for the re-ranking

}  // namespace

void Walk::start(const Graph& graph, const PreparedQuery& query, const WalkLimits& limits, const uint64_t* keep) {
  graph_ = graph;
  query_ = &query;
  keep_ = keep;
  limits_ = limits;
  for (size_t i = 0; i < n_touched_; ++i) visited_[touched_[i]] = 0;
  n_touched_ = 0;
  if (visited_.size() < words_for(graph.n_rows)) visited_.resize(words_for(graph.n_rows));
  // A word is noted once, and again after its last row was taken back; one place is written in vain.
  const size_t most_touched = visited_.size() + graph.entries.size() + 1;
  if (touched_.size() < most_touched) touched_.resize(most_touched);
  beam_.reset(limits.beam);
  if (keep != nullptr) kept_.reset(limits.n_nearest + n_spare);
  const size_t most = std::max(graph.stride, graph.entries.size()) + 1;
  if (rows_.size() < most) {
    rows_.resize(most);
    distances_.resize(most);
    dots_.resize(most);
  }
  next_ = n_expanded_ = n_scored_ = n_kept_ = 0;
  was_cut_ = false;

  n_rows_ = 0;
  for (const uint32_t row : graph.entries) {
    if (row < graph.n_rows) visit(row);
  }
  // Of many entries only the best by their signs are worth a look at their codes.
  if (n_rows_ > n_starts) {
    graph.rows->bounds(query, rows_.data(), n_rows_, distances_.data());
    keep_best(n_starts);
  }
  for (size_t i = 0; i < n_rows_; ++i) graph.rows->prefetch_code(rows_[i]);
  phase_ = Phase::score;
}

// Leaves the `most` rows of least bound and forgets that the others were visited: they may be met again.
void Walk::keep_best(size_t most) {
  for (size_t i = 0; i < most; ++i) {
    const auto best =
        static_cast<size_t>(std::min_element(distances_.data() + i, distances_.data() + n_rows_) - distances_.data());
    std::swap(distances_[i], distances_[best]);
    std::swap(rows_[i], rows_[best]);
  }
  for (size_t i = most; i < n_rows_; ++i) {
    visited_[rows_[i] / word_bits] &= ~(uint64_t{1} << (rows_[i] % word_bits));
  }
  n_rows_ = most;
}

float Walk::limit() const {
  const Shortlist& nearest = this->nearest();
  float limit = std::numeric_limits<float>::infinity();
  if (nearest.size() >= limits_.n_nearest) {
    const float kth = distance_of(nearest[limits_.n_nearest - 1]);
    limit = kth * (kth > 0 ? limits_.spread : 1);
  }
  return beam_.is_full() ? std::min(limit, distance_of(beam_.back())) : limit;
}

bool Walk::advance() {
  switch (phase_) {
    case Phase::gather:
      return gather();
    case Phase::bound:
      bound();
      return true;
    case Phase::score:
      score();
      return true;
    case Phase::over:
      return false;
  }
  return false;
}

// Takes the nearest candidate that was not followed yet and asks for the signs of what it links to. To take two at a
// time was no faster.
bool Walk::gather() {
  const float limit = this->limit();
  n_rows_ = 0;
  while (n_rows_ == 0) {
    while (next_ < beam_.size() && (beam_[next_] & 1) != 0) ++next_;
    const bool is_left = next_ != beam_.size() && distance_of(beam_[next_]) <= limit;
    if (!is_left || n_expanded_ == limits_.max_expanded) {
      was_cut_ = is_left;
      phase_ = Phase::over;
      return false;
    }
    ++n_expanded_;
    const uint32_t* links = links_of(next_);
    if (touched_.size() < n_touched_ + graph_.stride + 1) touched_.resize(2 * touched_.size() + graph_.stride);
    beam_[next_] |= 1;
    // Most often the one to be followed next is known already.
    if (next_ + 1 < beam_.size()) {
      __builtin_prefetch(links_of(next_ + 1));
      __builtin_prefetch(links_of(next_ + 1) + 16);
    }
    for (size_t i = 0; i < graph_.stride; ++i) {
      if (links[i] >= graph_.n_rows) break;  // no_row, or a damaged file
      visit(links[i]);
    }
  }
  for (size_t i = 0; i < n_rows_; ++i) graph_.rows->prefetch_sign(rows_[i]);
  phase_ = Phase::bound;
  return true;
}

// Drops what lies beyond the limit by its signs alone and asks for the codes of the rest.
void Walk::bound() {
  const float limit = this->limit();
  graph_.rows->bounds(*query_, rows_.data(), n_rows_, distances_.data());
  size_t n_left = 0;
  for (size_t i = 0; i < n_rows_; ++i) {
    rows_[n_left] = rows_[i];
    const float bound = distances_[i];
    distances_[n_left] = bound;
    n_left += bound < limit ? 1 : 0;
  }
  n_rows_ = n_left;
  if (n_left > most_scored) keep_best(most_scored);
  for (size_t i = 0; i < n_rows_; ++i) graph_.rows->prefetch_code(rows_[i]);
  phase_ = n_left == 0 ? Phase::gather : Phase::score;
}

void Walk::score() {
  graph_.rows->distances(*query_, rows_.data(), n_rows_, dots_.data(), distances_.data());
  float limit = this->limit();
  n_scored_ += n_rows_;
  for (size_t i = 0; i < n_rows_; ++i) {
    if (!(distances_[i] < limit)) continue;
    const uint32_t row = rows_[i];
    const Candidate candidate = candidate_of(distances_[i], row);
    next_ = std::min(next_, beam_.insert(candidate));
    if (keep_ != nullptr) {
      if ((keep_[row / word_bits] >> (row % word_bits) & 1) == 0) continue;
      ++n_kept_;
      kept_.insert(candidate);
    }
    limit = this->limit();
  }
  phase_ = Phase::gather;
}

}  // namespace likewise
