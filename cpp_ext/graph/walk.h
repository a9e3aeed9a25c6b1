// Best-first search of a graph, in phases that each end with the memory of the next on its way.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "bitmap.h"
#include "graph/blocks.h"
#include "graph/prefetch.h"
#include "graph/rows.h"

namespace likewise {

inline constexpr uint32_t no_row = 0xffffffff;
inline constexpr size_t max_graph_rows = (size_t{1} << 31) - 1;

// Row r is linked to neighbors[r * stride ...], at most stride of them, no_row behind the last.
struct Graph {
  const QuantizedRows* rows;
  const uint32_t* neighbors;
  size_t stride;
  size_t n_rows;
  std::span<const uint32_t> entries;
  // Null = links are bounded by the signs of their rows. For queries without lift only, whose bounds blocks hold.
  const LinkBlocks* blocks = nullptr;
  std::span<const unsigned char> entry_blocks{};  // of the centre, where there are blocks
};

// A candidate as one number that sorts by D, then by row; the last bit says that its links were followed.
using Candidate = uint64_t;

constexpr float distance_of(Candidate candidate) {
  const auto bits = static_cast<uint32_t>(candidate >> 32);
  return std::bit_cast<float>((bits & 0x80000000U) != 0 ? bits & 0x7fffffffU : ~bits);
}
constexpr uint32_t row_of(Candidate candidate) { return static_cast<uint32_t>(candidate >> 1) & 0x7fffffffU; }
constexpr Candidate candidate_of(float distance, uint32_t row) {
  const auto bits = std::bit_cast<uint32_t>(distance);
  const uint32_t ordered = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  return (static_cast<uint64_t>(ordered) << 32) | (static_cast<uint64_t>(row) << 1);
}

// The nearest candidates in order, up to a capacity.
class Shortlist {
 public:
  void reset(size_t capacity) {
    if (places_.size() < capacity + 1) places_.resize(capacity + 1);
    capacity_ = capacity;
    size_ = 0;
  }
  size_t size() const { return size_; }
  bool is_full() const { return size_ == capacity_; }
  Candidate& operator[](size_t i) { return places_[i]; }
  const Candidate& operator[](size_t i) const { return places_[i]; }
  Candidate back() const { return places_[size_ - 1]; }
  void truncate(size_t size) { size_ = size; }

  // Returns the place, or capacity when the candidate is farther than a full list's last.
  size_t insert(Candidate candidate) {
    if (size_ == capacity_ && candidate >= places_[size_ - 1]) return capacity_;
    const Candidate* place = places_.data();
    size_t length = size_;
    while (length > 0) {  // no branch depends on the distances
      const size_t half = (length + 1) / 2;
      place += place[half - 1] < candidate ? half : 0;
      length -= half;
    }
    const auto at = static_cast<size_t>(place - places_.data());
    if (size_ < capacity_) ++size_;
    std::copy_backward(places_.data() + at, places_.data() + size_ - 1, places_.data() + size_);
    places_[at] = candidate;
    return at;
  }

 private:
  std::vector<Candidate> places_;
  size_t capacity_ = 0;
  size_t size_ = 0;
};

// How far a search goes.
struct WalkLimits {
  size_t n_nearest;     // the k that the spread is measured by
  size_t beam;          // candidates kept
  float spread;         // rows with D beyond spread * (D of the k-th nearest so far) are not followed; may be below 1
  size_t max_expanded;  // rows whose links are followed
};

// One search at a time. Scratch is kept between searches, nothing is allocated on the way.
//
// Source: the stop by distance: Al-Jazzazi et al., Distance Adaptive Beam Search for Provably Accurate Graph-Based
// Nearest Neighbor Search, 2025. Bounds by signs before distances by codes: our own.
class Walk {
 public:
  // `keep`: rows that may be answered, null = all; others are followed all the same.
  void start(const Graph& graph, const PreparedQuery& query, const WalkLimits& limits, const uint64_t* keep);

  // Does a piece of the search and asks for the memory of the next piece. Returns false when it is over.
  bool advance();

  // All of it.
  void finish() {
    while (advance()) {
    }
  }

  bool was_cut() const { return was_cut_; }  // max_expanded ended it
  void resume(size_t max_expanded) {
    if (!was_cut_) return;
    limits_.max_expanded = max_expanded;
    was_cut_ = false;
    phase_ = Phase::gather;
  }
  // The share of the rows looked at that may be answered.
  float kept_share(float prior) const {
    return (static_cast<float>(n_kept_) + prior) / (static_cast<float>(n_scored_) + 1);
  }
  size_t n_expanded() const { return n_expanded_; }
  // Rows that may be answered, nearest first.
  const Shortlist& nearest() const { return keep_ == nullptr ? beam_ : kept_; }

 private:
  // Adds row to the piece under way unless it was visited. Half of them were, at random: so there is no branch.
  void visit(uint32_t row) {
    uint64_t& word = visited_[row / word_bits];
    const uint64_t bit = uint64_t{1} << (row % word_bits);
    touched_[n_touched_] = row / static_cast<uint32_t>(word_bits);
    n_touched_ += word == 0 ? 1 : 0;
    rows_[n_rows_] = row;
    n_rows_ += (word & bit) == 0 ? 1 : 0;
    word |= bit;
  }
  const uint32_t* links_of(size_t place) const {
    return graph_.neighbors + static_cast<size_t>(row_of(beam_[place])) * graph_.stride;
  }
  [[gnu::always_inline]] void prefetch_links(size_t place, size_t block_lines) const {
    if (graph_.blocks != nullptr) graph_.blocks->prefetch(row_of(beam_[place]), block_lines);
    prefetch_bytes(links_of(place), graph_.stride * sizeof(uint32_t));
  }
  float limit(float spread) const;
  void keep_best(size_t most);
  void enter();
  bool find_next(float limit);
  bool gather();
  void bound();
  void score();

  Graph graph_{};
  const PreparedQuery* query_ = nullptr;
  const uint64_t* keep_ = nullptr;
  WalkLimits limits_{};
  Shortlist beam_;
  Shortlist kept_;
  std::vector<uint64_t> visited_;
  std::vector<uint32_t> touched_;  // words of visited_ that are not 0
  size_t n_touched_ = 0;
  std::vector<uint32_t> rows_;  // of the piece under way
  std::vector<float> distances_;
  std::vector<float> bounds_;  // of all links of the followed row
  std::vector<int32_t> dots_;
  size_t n_rows_ = 0;
  size_t most_scored_ = 0;
  size_t next_ = 0;  // no candidate before it is left to follow
  Candidate followed_ = 0;
  size_t n_expanded_ = 0;
  size_t n_scored_ = 0;
  size_t n_kept_ = 0;
  enum class Phase { gather, bound, score, over } phase_ = Phase::over;
  bool was_cut_ = false;
};

}  // namespace likewise
