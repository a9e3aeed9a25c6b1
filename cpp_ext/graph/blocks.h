// The signs of a row's links, in blocks that are read in one piece and bounded 32 at a time by table look-up.
//
// A link x of row v is described by the signs of its residual r = x - v: near the query they bound a distance far
// better than signs around the mean of all rows, for |r| and |query - v| are small there. With s the signs and slope =
// 2 |r|^2 / sum |r_i|, so that slope / 2 <s, r> = |r|^2:
//
//   D(query, x) = D(query, v) + own(x) - own(v) - 2 <query, r>,  2 <query, r> ~ slope <s, query - v> + 2 <v, r>
//               ~ D(query, v) + shift - slope <s, query>,        shift = own(x) - own(v) - 2 <v, r> + slope <s, v>
//
// A link that is not there has shift = inf.
//
// Source: Gou et al., SymphonyQG, SIGMOD 2025 (signs around the row that links); the look-up: Andre et al., Cache
// locality is not enough, VLDB 2015.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "graph/huge_array.h"
#include "graph/prefetch.h"
#include "graph/rows.h"

namespace likewise {

// Of how many coordinates links have signs: of no more than the first 448. They are turned at random, so the first know
// as much as others do; and a bound that errs a little more costs a search less than twice the lines of every block.
constexpr size_t n_link_signs(size_t padded_dim) { return std::min<size_t>(padded_dim, 448); }

constexpr size_t link_block_bytes(size_t padded_dim) { return block_bytes(n_link_signs(padded_dim)); }

// The links of a row as they stand, with their blocks; what a link has there depends on it and the row alone.
struct HeldLinks {
  std::span<const uint32_t> links;
  const unsigned char* blocks = nullptr;
};

// A block of at most 32 links of the point v whose gap and own part of D are given, or of the centre: zeros.
void encode_block(const QuantizedRows& rows, const float* gap, float own, std::span<const uint32_t> links,
                  unsigned char* out, const HeldLinks& held = {});

// Lower bounds of D for the 32 links in a block of v, when D(query, v) = distance and |query - v| <= reach.
void bound_block(const PreparedQuery& query, const unsigned char* block, float distance, float reach, float* out);

class LinkBlocks {
 public:
  LinkBlocks() = default;
  LinkBlocks(size_t padded_dim, size_t degree)
      : n_blocks_((degree + block_rows - 1) / block_rows),
        block_bytes_(link_block_bytes(padded_dim)),
        degree_(degree) {}

  size_t stride() const { return n_blocks_ * block_bytes_; }  // bytes of one row
  const unsigned char* of(uint32_t row) const { return bytes_.data() + static_cast<size_t>(row) * stride(); }
  size_t owned_bytes() const { return bytes_.owned_bytes(); }
  std::span<const unsigned char> span() const { return bytes_.span(); }

  void borrow(std::span<const unsigned char> bytes) { bytes_.borrow(bytes); }
  void assign(HugeArray<unsigned char> bytes) { bytes_.swap(bytes); }
  void own() { bytes_.own(); }
  void resize(size_t n_rows) {
    bytes_.own();
    bytes_.resize(n_rows * stride());
  }
  unsigned char* writable(size_t row) { return bytes_.writable() + row * stride(); }

  // What belongs into writable(row) when row has these links: `degree` of them, no_row behind the last; `gap` is
  // scratch. Links that it has already are copied from where they stand; `out` lies elsewhere.
  void encode(const QuantizedRows& rows, uint32_t row, const uint32_t* links, std::vector<float>& gap,
              unsigned char* out, const HeldLinks& held = {}) const;

  [[gnu::always_inline]] void prefetch(uint32_t row, size_t n_lines) const {
    prefetch_bytes(of(row), std::min(stride(), 64 * n_lines));
  }
  // Lower bounds of D for the links of row, whose own D is `distance`; out holds n_blocks * 32.
  void bounds(const PreparedQuery& query, uint32_t row, float distance, float* out) const;
  size_t n_bounds() const { return n_blocks_ * block_rows; }

 private:
  size_t n_blocks_ = 0;
  size_t block_bytes_ = 0;
  size_t degree_ = 0;
  HugeArray<unsigned char> bytes_;
};

}  // namespace likewise
