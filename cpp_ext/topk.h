// The k nearest of a stream.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace likewise {

struct Neighbor {
  float distance;
  int64_t row;
};

inline constexpr Neighbor no_neighbor{std::numeric_limits<float>::infinity(), -1};

// The total order of every answer; false for NaN.
constexpr bool nearer(const Neighbor& a, const Neighbor& b) {
  return a.distance < b.distance || (a.distance == b.distance && a.row < b.row);
}

// Writes a sorted list and fills what is left with row -1, distance +inf.
inline void write_sorted(std::span<const Neighbor> sorted, std::span<int64_t> rows, std::span<float> distances) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const Neighbor& neighbor = i < sorted.size() ? sorted[i] : no_neighbor;
    rows[i] = neighbor.row;
    distances[i] = neighbor.distance;
  }
}

// A heap with the farthest on top. NaN and +inf never enter. Rows pushed must be distinct.
class TopK {
 public:
  explicit TopK(size_t k) : k_(k) { kept_.reserve(k); }

  bool admits(const Neighbor& neighbor) const { return nearer(neighbor, bound_); }

  const Neighbor& bound() const { return bound_; }  // what is not nearer is not admitted

  // Expects admits(neighbor).
  void push(const Neighbor& neighbor) {
    if (kept_.size() < k_) {
      kept_.push_back(neighbor);
      std::push_heap(kept_.begin(), kept_.end(), nearer);
    } else {
      replace_farthest(neighbor);
    }
    if (kept_.size() == k_) bound_ = kept_.front();
  }

  void absorb(const TopK& other) {
    for (const Neighbor& neighbor : other.kept_) {
      if (admits(neighbor)) push(neighbor);
    }
  }

  void clear() {
    kept_.clear();
    bound_ = no_neighbor;
  }

  // Leaves it sorted, fit only for clear().
  void finish(std::span<int64_t> rows, std::span<float> distances) {
    std::sort_heap(kept_.begin(), kept_.end(), nearer);
    write_sorted(kept_, rows, distances);
  }

 private:
  void replace_farthest(const Neighbor& neighbor) {
    size_t hole = 0;
    for (size_t child = 1; child < k_; child = 2 * hole + 1) {
      if (child + 1 < k_ && nearer(kept_[child], kept_[child + 1])) ++child;
      if (!nearer(neighbor, kept_[child])) break;
      kept_[hole] = kept_[child];
      hole = child;
    }
    kept_[hole] = neighbor;
  }

  size_t k_;
  Neighbor bound_ = no_neighbor;
  std::vector<Neighbor> kept_;
};

}  // namespace likewise
