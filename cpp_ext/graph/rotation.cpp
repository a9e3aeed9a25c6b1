#include "graph/rotation.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "graph/random.h"
#include "simd.h"

namespace likewise {
namespace {

constexpr size_t rounds = 3;
constexpr size_t step = 64;

void multiply(float* x, const float* by, size_t n) {
  for (size_t i = 0; i < n; ++i) x[i] *= by[i];
}

// The kernel's stages are their own inverses; its transposition is not.
void undo_hadamard(float* x, size_t n) {
  constexpr size_t close = 8;
  const size_t rows = n / close;
  const auto stage = [n](float* values, size_t half) {
    for (size_t i = 0; i < n; ++i) {
      if ((i & half) != 0) continue;
      const float a = values[i];
      const float b = values[i + half];
      values[i] = a + b;
      values[i + half] = a - b;
    }
  };
  for (size_t half = rows; half < n; half *= 2) stage(x, half);
  std::vector<float> back(n);
  for (size_t i = 0; i < rows; ++i) {
    for (size_t j = 0; j < close; ++j) back[i * close + j] = x[j * rows + i];
  }
  for (size_t half = close; half < n; half *= 2) stage(back.data(), half);
  std::copy(back.begin(), back.end(), x);
}

}  // namespace

Rotation::Rotation(size_t dim, uint64_t seed)
    : dim_(dim),
      padded_(std::max((dim + step - 1) / step * step, step)),
      block_(std::bit_floor(padded_)),
      signs_(2 * rounds * padded_, 1.0F) {
  const float scale = 1 / std::sqrt(static_cast<float>(block_));
  Random random(seed);
  for (size_t round = 0; round < rounds; ++round) {
    float* first = signs_.data() + 2 * round * padded_;
    for (size_t i = 0; i < padded_; ++i) first[i] = (random.next() >> 63) != 0 ? 1.0F : -1.0F;
    for (size_t i = 0; i < block_; ++i) first[i] *= scale;
    // The second transform's: what the first one leaves out is turned by its signs here.
    for (size_t i = 0; i < block_; ++i) first[2 * padded_ - 1 - i] = scale;
    for (size_t i = block_; i < padded_; ++i) first[padded_ + i] *= first[i];
  }
}

void Rotation::apply(const float* vector, float* rotated) const {
  std::array<float, max_padded> space;
  const Quantized& kernels = simd().quantized;
  const size_t rest = padded_ - block_;
  std::copy_n(vector, dim_, rotated);
  std::fill(rotated + dim_, rotated + padded_, 0.0F);
  for (size_t round = 0; round < rounds; ++round) {
    const float* first = signs_.data() + 2 * round * padded_;
    kernels.hadamard(rotated, first, space.data(), block_);
    if (rest == 0) {
      std::copy_n(space.data(), block_, rotated);
      continue;
    }
    std::copy_n(rotated + block_, rest, space.data() + block_);
    std::copy_n(space.data(), rest, rotated);
    kernels.hadamard(space.data() + rest, first + padded_ + rest, rotated + rest, block_);
    kernels.mix_halves(rotated, padded_);
  }
}

void Rotation::undo(const float* rotated, float* vector) const {
  std::vector<float> x(rotated, rotated + padded_);
  const size_t rest = padded_ - block_;
  for (size_t round = rounds; round-- > 0;) {
    const float* first = signs_.data() + 2 * round * padded_;
    if (rest != 0) {
      simd().quantized.mix_halves(x.data(), padded_);
      undo_hadamard(x.data() + rest, block_);
      multiply(x.data() + rest, first + padded_ + rest, block_);
    }
    undo_hadamard(x.data(), block_);
    multiply(x.data(), first, block_);
  }
  std::copy_n(x.data(), dim_, vector);
}

}  // namespace likewise
