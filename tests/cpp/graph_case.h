// An index laid out in memory as a sealed file holds it, to be damaged, opened, asked and changed.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "bitmap.h"
#include "graph/index.h"

namespace likewise {

class GraphCase {
 public:
  static constexpr size_t n_arrays = 12;

  explicit GraphCase(const GraphIndex& index)
      : dim_(index.dim()),
        metric_(index.metric()),
        degree_(index.degree()),
        is_packed_(index.is_packed()),
        n_(index.size()) {
    const GraphIndex::State state = index.state();
    longest_ = state.rows.longest;
    copy(0, state.rows.codes);
    copy(1, state.rows.fine);
    copy(2, state.rows.signs);
    copy(3, state.rows.factors);
    copy(4, state.rows.centre);
    copy(5, state.neighbors);
    copy(6, state.entries);
    copy(7, state.live);
    copy(8, state.table);
    copy(9, state.scan_table);
    copy(10, state.blocks);
    copy(11, state.rows.sign_blocks);
  }

  std::span<unsigned char> bytes(size_t array) { return arrays_[array]; }
  size_t dim() const { return dim_; }
  void set_longest(float longest) { longest_ = longest; }
  // As if it had been measured: small indexes are not.
  void set_tables(std::span<const Operating> table) {
    const ScanOperating scans[] = {{0.5F, 0.8F}, {2, 0.99F}};
    copy(8, table);
    copy(9, std::span<const ScanOperating>(scans));
  }

  // Opens it and does all that can be done to an index; answers are checked for what holds of any, right or wrong.
  void exercise(const std::vector<float>& queries, uint32_t seed) const {
    std::mt19937 generator(seed);
    GraphIndex index(dim_, metric_, 7, {degree_, 2 * degree_, 1}, is_packed_);
    GraphIndex::State state;
    state.rows = {view<int8_t>(0), view<int8_t>(1), view<unsigned char>(2), view<unsigned char>(11), view<float>(3),
                  view<float>(4),  longest_};
    state.neighbors = view<uint32_t>(5);
    state.entries = view<uint32_t>(6);
    state.live = view<uint64_t>(7);
    state.table = view<Operating>(8);
    state.scan_table = view<ScanOperating>(9);
    state.blocks = view<unsigned char>(10);
    index.open(state);
    ask(index, queries, generator);
    (void)index.n_unreachable();
    (void)index.table();
    std::vector<float> vector(dim_);
    index.restore(generator() % n_, vector.data());
    std::vector<int64_t> gone;
    for (int i = 0; i < 20; ++i) gone.push_back(static_cast<int64_t>(generator() % n_));
    index.remove(gone);
    ask(index, queries, generator);
    index.add(queries.data(), queries.size() / dim_, 1 + seed % 2);
    ask(index, queries, generator);
    std::vector<int64_t> old_rows;
    const std::unique_ptr<GraphIndex> compacted = index.compacted(1 + seed % 2, old_rows);
    (void)compacted->n_unreachable();
    ask(*compacted, queries, generator);
    compacted->add(queries.data(), queries.size() / dim_, 1);
    ask(*compacted, queries, generator);
  }

 private:
  template <class T>
  void copy(size_t array, std::span<const T> values) {
    const auto* first = reinterpret_cast<const unsigned char*>(values.data());
    arrays_[array].assign(first, first + values.size_bytes());
  }
  template <class T>
  std::span<const T> view(size_t array) const {
    return {reinterpret_cast<const T*>(arrays_[array].data()), arrays_[array].size() / sizeof(T)};
  }

  static void require(bool holds) {
    if (!holds) std::abort();
  }

  static void ask(const GraphIndex& index, const std::vector<float>& queries, std::mt19937& generator) {
    const size_t n = index.size();
    const size_t n_queries = queries.size() / index.dim();
    std::vector<uint64_t> keep(words_for(n));
    for (uint64_t& word : keep) word = (static_cast<uint64_t>(generator()) << 32) | generator();
    for (int way = 0; way < 4; ++way) {
      const size_t k = way == 3 ? n + 3 : 5;
      std::vector<int64_t> rows(n_queries * k);
      std::vector<float> distances(n_queries * k);
      const float recall = way == 0 ? 0.9F : 0.99F;
      GraphSearch search{queries, n_queries, k, index.spread_for_recall(recall), index.margin_for_recall(recall)};
      if (way == 1) search.spread = index.spread_for_effort(40);
      (void)index.recall_of(search.spread);
      search.is_exact = generator() % 4 == 0;
      search.is_walk = !search.is_exact && way < 2 && index.n_live() >= 2 * k;
      search.n_threads = 1 + generator() % 2;
      if (generator() % 2 == 0) {
        search.keep = keep.data();
        search.n_keep_words = keep.size();
      }
      index.search(search, {rows, distances}, {});
      for (size_t i = 0; i < rows.size(); ++i) {
        require(rows[i] >= -1 && rows[i] < static_cast<int64_t>(n));
        require(!std::isnan(distances[i]));
        require(i % k == 0 || distances[i - 1] <= distances[i]);
      }
    }
  }

  size_t dim_;
  Metric metric_;
  size_t degree_;
  bool is_packed_;
  size_t n_;
  float longest_ = 1;
  std::vector<unsigned char> arrays_[n_arrays];
};

}  // namespace likewise
