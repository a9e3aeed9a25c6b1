#include "graph/walk.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

namespace likewise {
namespace {

constexpr size_t n_starts = 4;
constexpr size_t n_spare = 24;  // kept beyond k for the re-ranking
// Lines of a block that are asked for when it will be read next and when it may be: the hardware fetches what follows.
constexpr size_t lines_now = 24;
constexpr size_t lines_ahead = 16;

// Of one row's links, while the limit is loose; more found little more. Signs around the row itself choose better, and
// the shorter the search the fewer of them will be followed.
size_t most_scored(bool by_blocks, float spread) {
  constexpr size_t most = 12;
  const float wanted = 5 + 20 * (spread - 1);
  if (!by_blocks || !(wanted < most)) return most;  // the spread of a damaged file may be NaN
  return static_cast<size_t>(std::max(wanted, 4.0F));
}

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
  if (graph.blocks != nullptr) {
    const size_t n_entry_bounds = graph.entry_blocks.size() / link_block_bytes(graph.rows->padded_dim()) * block_rows;
    // Whole words of them are compared.
    bounds_.resize(
        std::max({bounds_.size(), (graph.blocks->n_bounds() + word_bits - 1) / word_bits * word_bits, n_entry_bounds}));
  }
  most_scored_ = most_scored(graph.blocks != nullptr, limits.spread);
  next_ = n_expanded_ = n_scored_ = n_kept_ = n_rows_ = 0;
  was_cut_ = false;
  enter();
  for (size_t i = 0; i < n_rows_; ++i) graph.rows->prefetch_code(rows_[i]);
  phase_ = Phase::score;
}

// Of many entries only the best by their signs are worth a look at their codes.
void Walk::enter() {
  if (graph_.blocks == nullptr) {
    for (const uint32_t row : graph_.entries) {
      if (row < graph_.n_rows) visit(row);
    }
    if (n_rows_ <= n_starts) return;
    graph_.rows->bounds(*query_, rows_.data(), n_rows_, distances_.data());
    keep_best(n_starts);
    return;
  }
  const size_t stride = link_block_bytes(graph_.rows->padded_dim());
  for (size_t i = 0; i < graph_.entry_blocks.size() / stride; ++i) {
    bound_block(*query_, graph_.entry_blocks.data() + i * stride, query_->own, query_->reach,
                bounds_.data() + i * block_rows);
  }
  std::array<size_t, n_starts> best{};
  size_t n_best = 0;
  for (size_t i = 0; i < graph_.entries.size(); ++i) {
    if (n_best == n_starts && !(bounds_[i] < bounds_[best[n_starts - 1]])) continue;
    size_t place = n_best == n_starts ? n_starts - 1 : n_best++;
    for (; place > 0 && bounds_[i] < bounds_[best[place - 1]]; --place) best[place] = best[place - 1];
    best[place] = i;
  }
  for (size_t i = 0; i < n_best; ++i) {
    if (graph_.entries[best[i]] < graph_.n_rows) visit(graph_.entries[best[i]]);  // else of a damaged file
  }
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

float Walk::limit(float spread) const {
  const Shortlist& nearest = this->nearest();
  float limit = std::numeric_limits<float>::infinity();
  if (nearest.size() >= limits_.n_nearest) {
    const float kth = distance_of(nearest[limits_.n_nearest - 1]);
    limit = kth * (kth > 0 ? spread : 1);
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

// Finds the nearest candidate that was not followed yet; false when the walk is over.
bool Walk::find_next(float limit) {
  while (next_ < beam_.size() && (beam_[next_] & 1) != 0) ++next_;
  const bool is_left = next_ != beam_.size() && distance_of(beam_[next_]) <= limit;
  if (is_left && n_expanded_ != limits_.max_expanded) return true;
  was_cut_ = is_left;
  phase_ = Phase::over;
  return false;
}

// Takes the next candidate and asks for what bounds the rows it links to. To take two at a time was no faster.
bool Walk::gather() {
  const float limit = this->limit(limits_.spread);
  n_rows_ = 0;
  while (n_rows_ == 0) {
    if (!find_next(limit)) return false;
    ++n_expanded_;
    const uint32_t* links = links_of(next_);
    followed_ = beam_[next_];
    beam_[next_] |= 1;
    if (touched_.size() < n_touched_ + graph_.stride + 1) touched_.resize(2 * touched_.size() + graph_.stride);
    if (graph_.blocks != nullptr) {
      prefetch_links(next_, lines_now);
      phase_ = Phase::bound;
      return true;
    }
    if (next_ + 1 < beam_.size()) prefetch_links(next_ + 1, 0);  // most often the one to be followed next
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
  const float limit = this->limit(std::max(limits_.spread, 1.0F));
  if (graph_.blocks != nullptr) {
    const uint32_t row = row_of(followed_);
    const uint32_t* links = graph_.neighbors + static_cast<size_t>(row) * graph_.stride;
    graph_.blocks->bounds(*query_, row, distance_of(followed_), bounds_.data());
    for (size_t first = 0; first < graph_.stride; first += word_bits) {
      uint64_t passing = live_bits(first / word_bits, graph_.stride);
      simd().compare_f32[static_cast<size_t>(Operator::less)](bounds_.data() + first, limit, &passing, 1);
      for (; passing != 0; passing &= passing - 1) {  // no branch for each link: which pass is as good as random
        const size_t i = first + static_cast<size_t>(std::countr_zero(passing));
        if (links[i] >= graph_.n_rows) break;  // of a damaged file
        distances_[n_rows_] = bounds_[i];
        visit(links[i]);
      }
    }
  } else {
    graph_.rows->bounds(*query_, rows_.data(), n_rows_, distances_.data());
    size_t n_left = 0;
    for (size_t i = 0; i < n_rows_; ++i) {
      rows_[n_left] = rows_[i];
      const float bound = distances_[i];
      distances_[n_left] = bound;
      n_left += bound < limit ? 1 : 0;
    }
    n_rows_ = n_left;
  }
  if (n_rows_ > most_scored_) keep_best(most_scored_);
  for (size_t i = 0; i < n_rows_; ++i) graph_.rows->prefetch_code(rows_[i]);
  if (graph_.blocks != nullptr) {
    // Every other time it is the next best that will be followed.
    size_t next = next_ + 1;
    while (next < beam_.size() && (beam_[next] & 1) != 0) ++next;
    if (next < beam_.size()) prefetch_links(next, lines_ahead);
  }
  phase_ = n_rows_ == 0 ? Phase::gather : Phase::score;
}

void Walk::score() {
  graph_.rows->distances(*query_, rows_.data(), n_rows_, dots_.data(), distances_.data());
  const float spread = std::max(limits_.spread, 1.0F);
  float limit = this->limit(spread);
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
    limit = this->limit(spread);
  }
  phase_ = Phase::gather;
}

}  // namespace likewise
