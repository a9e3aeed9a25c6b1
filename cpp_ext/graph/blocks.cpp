#include "graph/blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "simd.h"

namespace likewise {
namespace {

constexpr size_t n_ahead = 3;  // links whose rows are on their way

// Copies what block b has at place j to place i of a block; false where the link is not among those held.
bool copy_held(const HeldLinks& held, uint32_t link, size_t n_signs, size_t i, unsigned char* out) {
  const auto found = std::ranges::find(held.links, link);
  if (found == held.links.end()) return false;
  const auto at = static_cast<size_t>(found - held.links.begin());
  const unsigned char* block = held.blocks + at / block_rows * block_bytes(n_signs);
  const size_t j = at % block_rows;
  for (const size_t factor : {size_t{0}, block_rows}) {
    std::memcpy(out + (factor + i) * sizeof(float), block + (factor + j) * sizeof(float), sizeof(float));
  }
  for (size_t byte = 0; byte < n_signs / 8; ++byte) {
    out[block_signs + block_rows * byte + i] = block[block_signs + block_rows * byte + j];
  }
  return true;
}

}  // namespace

void encode_block(const QuantizedRows& rows, const float* gap, float own, std::span<const uint32_t> links,
                  unsigned char* out, const HeldLinks& held) {
  const size_t n_signs = n_link_signs(rows.padded_dim());
  std::memset(out, 0, block_bytes(n_signs));
  auto* shifts = reinterpret_cast<float*>(out);
  float* slopes = shifts + block_rows;
  unsigned char* bits = out + block_signs;
  for (size_t i = 0; i < block_rows; ++i) {
    const size_t ahead = i + n_ahead;
    if (held.links.empty() && ahead < links.size() && links[ahead] < rows.size()) {
      rows.prefetch_code(links[ahead]);
      rows.prefetch_fine(links[ahead]);
    }
    if (i >= links.size() || links[i] >= rows.size()) {
      shifts[i] = std::numeric_limits<float>::infinity();
      continue;
    }
    if (copy_held(held, links[i], n_signs, i, out)) continue;
    ResidualSums sums;
    rows.residual(links[i], gap, n_signs, bits + i, sums);
    slopes[i] = sums.sum > 0 ? 2 * sums.square / sums.sum : 0;
    shifts[i] = (rows.own(links[i]) - own) - 2 * sums.cross + slopes[i] * sums.signed_sum;
  }
}

void bound_block(const PreparedQuery& query, const unsigned char* block, float distance, float reach, float* out) {
  simd().quantized.block_bounds(query.block, block, distance, sign_deviation * query.margin * reach, out);
}

void LinkBlocks::encode(const QuantizedRows& rows, uint32_t row, const uint32_t* links, std::vector<float>& gap,
                        unsigned char* out, const HeldLinks& held) const {
  gap.resize(rows.padded_dim());
  rows.gap(row, gap.data());
  for (size_t i = 0; i < n_blocks_; ++i) {
    const size_t first = i * block_rows;
    encode_block(rows, gap.data(), rows.own(row), {links + first, std::min(block_rows, degree_ - first)},
                 out + i * block_bytes_, held);
  }
}

void LinkBlocks::bounds(const PreparedQuery& query, uint32_t row, float distance, float* out) const {
  const unsigned char* block = bytes_.data() + static_cast<size_t>(row) * stride();
  const float reach = std::sqrt(std::max(distance, 0.0F));
  for (size_t i = 0; i < n_blocks_; ++i) {
    bound_block(query, block + i * block_bytes_, distance, reach, out + i * block_rows);
  }
}

}  // namespace likewise
