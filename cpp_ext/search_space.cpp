#include "search_space.h"

#include <algorithm>
#include <utility>

#include "bitmap.h"
#include "topk.h"

namespace likewise {
namespace {

ConstBitmap words_of(const SpaceShard& shard, const SpaceSearch& search) {
  return {search.matching + static_cast<size_t>(shard.first_row) / word_bits, words_for(shard.vectors.n_rows)};
}

// The vectors that a graph may find: those of the rows that match. Nothing where that is all of them.
std::vector<uint64_t> selected_vectors(const SpaceShard& shard, const SpaceSearch& search) {
  if (search.matching == nullptr) return {};
  const Vectors<float>& vectors = shard.vectors;
  const ConstBitmap words = words_of(shard, search);
  if (!shard.grows && count(words, vectors.n_rows) == vectors.n_rows) return {};
  if (vectors.offsets.empty()) {
    std::vector<uint64_t> selected(words.begin(), words.end());
    if (!selected.empty()) selected.back() &= live_bits(selected.size() - 1, vectors.n_rows);
    return selected;
  }
  std::vector<uint64_t> selected(words_for(vectors.n_vectors));
  for_each_row(words, vectors.n_rows, 0, words.size(), [&](int64_t row) {
    const int64_t last = vectors.offsets[static_cast<size_t>(row) + 1];
    for (int64_t at = vectors.offsets[static_cast<size_t>(row)]; at < last; ++at) {
      selected[static_cast<size_t>(at) / word_bits] |= uint64_t{1} << static_cast<size_t>(at) % word_bits;
    }
  });
  return selected;
}

void turn_into_owners(std::span<const int64_t> offsets, std::span<int64_t> positions) {
  for (int64_t& position : positions) {
    if (position < 0) continue;
    position = std::upper_bound(offsets.begin(), offsets.end(), position) - offsets.begin() - 1;
  }
}

// The rows that the bias favours most, -1 where it favours no more.
void most_favoured(std::span<const float> bias, ConstBitmap words, size_t n_rows, bool has_words,
                   std::span<int64_t> rows) {
  TopK best(rows.size());
  const auto offer = [&](int64_t row) {
    const Neighbor each{bias[static_cast<size_t>(row)], row};
    if (each.distance < 0 && best.admits(each)) best.push(each);
  };
  if (has_words) {
    for_each_row(words, n_rows, 0, words.size(), offer);
  } else {
    for (size_t row = 0; row < n_rows; ++row) offer(static_cast<int64_t>(row));
  }
  std::vector<float> unused(rows.size());
  best.finish(rows, unused);
}

}  // namespace

SearchSpace::SearchSpace(std::vector<SpaceShard> shards, size_t dim, size_t n_rows, Metric metric, size_t best_of)
    : shards_(std::move(shards)), dim_(dim), n_rows_(n_rows), metric_(metric), best_of_(best_of) {}

size_t SearchSpace::search(const SpaceSearch& search, Neighbors out) const {
  size_t n_scored = 0;
  if (search.effort > 0) {
    n_scored = walk(search, out);
  } else {
    scan_all(search, out);
    n_scored = search.n_matching * search.n_queries;
  }
  if (metric_ == Metric::cosine) {
    for (float& distance : out.distances) distance += 1;
  }
  return n_scored;
}

size_t SearchSpace::walk(const SpaceSearch& search, Neighbors out) const {
  size_t n_scored = 0;
  merge_shards(search, out,
               [&](const SpaceShard& shard, Neighbors found) { n_scored += walk_shard(shard, search, found); });
  const size_t wanted = std::min(search.k, search.n_matching);
  for (size_t q = 0; q < search.n_queries; ++q) {
    const Neighbors mine{out.rows.subspan(q * search.k, search.k), out.distances.subspan(q * search.k, search.k)};
    if (wanted == 0 || mine.rows[wanted - 1] >= 0) continue;
    SpaceSearch again = search;
    again.queries = search.queries.subspan(q * dim_, dim_);
    again.n_queries = 1;
    if (!search.bias.empty()) again.bias = search.bias.subspan(q * n_rows_, n_rows_);
    scan_all(again, mine);
    n_scored += search.n_matching;
  }
  return n_scored;
}

void SearchSpace::scan_all(const SpaceSearch& search, Neighbors out) const {
  merge_shards(search, out, [&](const SpaceShard& shard, Neighbors found) { scan_shard(shard, search, found); });
}

template <class Find>
void SearchSpace::merge_shards(const SpaceSearch& search, Neighbors out, Find&& find) const {
  if (shards_.size() == 1) {
    find(shards_.front(), out);
    return;
  }
  const size_t n = search.n_queries * search.k;
  std::vector<int64_t> rows(shards_.size() * n);
  std::vector<float> distances(rows.size());
  for (size_t at = 0; at < shards_.size(); ++at) {
    const Neighbors found{std::span(rows).subspan(at * n, n), std::span(distances).subspan(at * n, n)};
    find(shards_[at], found);
    for (int64_t& row : found.rows) row += row < 0 ? 0 : shards_[at].first_row;
  }
  merge(rows, distances, shards_.size(), search.n_queries, search.k, {search.tags, search.tag_cap}, out);
}

// Keeps in `bias` what the shard's own part had to be copied to.
Search SearchSpace::in_shard(const SpaceShard& shard, const SpaceSearch& search, std::vector<float>& bias) const {
  const auto first = static_cast<size_t>(shard.first_row);
  const size_t n = shard.vectors.n_rows;
  Search own{search.queries, search.n_queries, search.k, metric_ == Metric::cosine ? Metric::ip : metric_};
  own.best_of = best_of_;
  if (search.tag_cap != 0) own.crowding = {search.tags.subspan(first, n), search.tag_cap};
  if (search.bias.empty()) return own;
  if (search.n_queries > 1 && n != n_rows_) {
    bias.resize(search.n_queries * n);
    for (size_t q = 0; q < search.n_queries; ++q) {
      std::copy_n(search.bias.data() + q * n_rows_ + first, n, bias.data() + q * n);
    }
    own.bias = bias;
  } else {
    own.bias = search.bias.subspan(first, search.n_queries * n);
  }
  return own;
}

void SearchSpace::scan_shard(const SpaceShard& shard, const SpaceSearch& search, Neighbors out) const {
  std::vector<float> bias;
  Search own = in_shard(shard, search, bias);
  if (search.matching != nullptr) {
    own.has_mask = true;
    own.mask = words_of(shard, search);
  }
  scan(shard.vectors, own, out);
}

size_t SearchSpace::walk_shard(const SpaceShard& shard, const SpaceSearch& search, Neighbors out) const {
  // Without vectors there is nothing to keep, though the graph may have some that came since.
  if (shard.graph == nullptr || shard.vectors.n_vectors == 0) {
    scan_shard(shard, search, out);
    return shard.vectors.n_rows * search.n_queries;
  }
  const size_t n_found = std::min(search.n_candidates, std::max<size_t>(shard.vectors.n_vectors, 1));
  const size_t n_favoured = search.bias.empty() ? 0 : std::min(search.n_candidates, shard.vectors.n_rows);
  const size_t n = n_found + n_favoured;
  std::vector<int64_t> found(search.n_queries * n_found);
  std::vector<float> distances(found.size());
  const std::vector<uint64_t> selected = selected_vectors(shard, search);
  const float spread = shard.graph->spread_for_effort(search.effort);
  GraphSearch walked{search.queries, search.n_queries, n_found, spread,
                     shard.graph->margin_for_recall(shard.graph->recall_of(spread))};
  walked.keep = selected.empty() ? nullptr : selected.data();
  walked.n_keep_words = selected.size();
  shard.graph->search(walked, {found, distances}, {});
  if (!shard.vectors.offsets.empty()) turn_into_owners(shard.vectors.offsets, found);
  std::vector<float> bias;
  const Search own = in_shard(shard, search, bias);
  if (n_favoured != 0) {
    std::vector<int64_t> both(search.n_queries * n);
    const ConstBitmap words = search.matching == nullptr ? ConstBitmap{} : words_of(shard, search);
    const size_t n_rows = shard.vectors.n_rows;
    for (size_t q = 0; q < search.n_queries; ++q) {
      std::copy_n(found.data() + q * n_found, n_found, both.data() + q * n);
      most_favoured(own.bias.subspan(q * n_rows, n_rows), words, n_rows, search.matching != nullptr,
                    std::span(both).subspan(q * n + n_found, n_favoured));
    }
    found = std::move(both);
  }
  rescore(shard.vectors, own, found, out);
  return static_cast<size_t>(std::count_if(found.begin(), found.end(), [](int64_t row) { return row >= 0; }));
}

}  // namespace likewise
