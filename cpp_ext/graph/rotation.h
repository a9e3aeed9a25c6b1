// A random rotation: it spreads every vector evenly over its coordinates, so that one scale a row quantises it well and
// the sign of each coordinate carries one bit of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace likewise {

inline constexpr size_t max_padded = 4096;

// Rounds of random signs and Walsh-Hadamard transforms, O(d log d); the same dim and seed give the same rotation.
// Source: Ailon and Chazelle, The Fast Johnson-Lindenstrauss Transform, 2009; Kac, Foundations of Kinetic Theory, 1956.
class Rotation {
 public:
  Rotation(size_t dim, uint64_t seed);

  size_t dim() const { return dim_; }
  size_t padded_dim() const { return padded_; }  // a multiple of 64

  void apply(const float* vector, float* rotated) const;  // [dim] -> [padded_dim]
  void undo(const float* rotated, float* vector) const;   // [padded_dim] -> [dim]; allocates

 private:
  size_t dim_;
  size_t padded_;
  size_t block_;              // the largest power of two within padded_
  std::vector<float> signs_;  // [rounds, 2, padded_]: signs and the scale of the first transform; scale of the second
};

}  // namespace likewise
