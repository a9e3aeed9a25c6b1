// The k nearest of a stream in which no tag has more than `cap` entries.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "topk.h"

namespace likewise {

struct Crowding {
  std::span<const int32_t> tags;  // one a row; -1 has no cap
  size_t cap = 0;                 // 0 = none
};

// How often each tag was seen; open addressing, sized once.
class TagCounts {
 public:
  explicit TagCounts(size_t n_tags) : slots_(std::bit_ceil(2 * n_tags + 2)) {}

  void clear() { ++round_; }

  // Counts one more and returns how many that makes.
  size_t add(int32_t tag) {
    const size_t last = slots_.size() - 1;
    size_t at = (static_cast<uint64_t>(static_cast<uint32_t>(tag)) * 0x9E3779B97F4A7C15U >> 32) & last;
    while (slots_[at].round == round_ && slots_[at].tag != tag) at = (at + 1) & last;
    if (slots_[at].round != round_) slots_[at] = {round_, 0, tag};
    return ++slots_[at].n;
  }

 private:
  struct Slot {
    uint64_t round = 0;
    size_t n = 0;
    int32_t tag = -1;
  };
  uint64_t round_ = 1;
  std::vector<Slot> slots_;
};

// Gathers up to twice k, then keeps the greedy list of what it has: lists that obey the caps and stop at k are the
// independent sets of a matroid (a partition matroid, truncated), so what greedy drops can never come back.
class CrowdedTopK {
 public:
  CrowdedTopK(size_t k, const Crowding& crowding)
      : k_(k), crowding_(crowding), capacity_(2 * k + 64), counts_(capacity_) {
    kept_.reserve(capacity_);
  }

  bool admits(const Neighbor& neighbor) const { return nearer(neighbor, bound_); }

  const Neighbor& bound() const { return bound_; }  // what is not nearer is not admitted

  // Expects admits(neighbor).
  void push(const Neighbor& neighbor) {
    kept_.push_back(neighbor);
    if (kept_.size() == capacity_) keep_greedy();
  }

  void absorb(const CrowdedTopK& other) {
    for (const Neighbor& neighbor : other.kept_) {
      if (admits(neighbor)) push(neighbor);
    }
  }

  void clear() {
    kept_.clear();
    bound_ = no_neighbor;
  }

  void finish(std::span<int64_t> rows, std::span<float> distances) {
    keep_greedy();
    write_sorted(kept_, rows, distances);
  }

 private:
  void keep_greedy() {
    std::sort(kept_.begin(), kept_.end(), nearer);
    counts_.clear();
    size_t n = 0;
    for (size_t i = 0; i < kept_.size() && n < k_; ++i) {
      const int32_t tag = crowding_.tags[static_cast<size_t>(kept_[i].row)];
      if (tag < 0 || counts_.add(tag) <= crowding_.cap) kept_[n++] = kept_[i];
    }
    kept_.resize(n);
    if (n == k_ && n != 0) bound_ = kept_.back();
  }

  size_t k_;
  Crowding crowding_;
  size_t capacity_;
  Neighbor bound_ = no_neighbor;
  TagCounts counts_;
  std::vector<Neighbor> kept_;
};

}  // namespace likewise
