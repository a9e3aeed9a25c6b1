// One space of a snapshot, searched by one call: shards of vectors, each walked by its graph or scanned, ranked by
// their float32 vectors and merged.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "graph/index.h"
#include "scan.h"

namespace likewise {

struct SpaceShard {
  int64_t first_row;  // of the space's rows; a multiple of word_bits
  Vectors<float> vectors;
  const GraphIndex* graph;  // of the vectors; null = scanned
  bool grows;               // the graph may hold more vectors than these
};

struct SpaceSearch {
  std::span<const float> queries;  // [n_queries, dim]; unit vectors for cosine
  size_t n_queries;
  size_t k;
  float effort = 0;                    // rows whose links a graph follows; 0 = every row is scanned
  size_t n_candidates = 0;             // of each graph, that are ranked by their vectors
  const uint64_t* matching = nullptr;  // bitmap [n_rows] of what may be found; null = all
  size_t n_matching = 0;               // how many that are
  std::span<const float> bias{};       // [n_queries, n_rows], added to the distance; empty = 0
  std::span<const int32_t> tags{};     // [n_rows], where there is a cap
  size_t tag_cap = 0;                  // 0 = none
};

// Immutable; what it is made of is borrowed. A graph that grows is searched with a bitmap.
class SearchSpace {
 public:
  // The metric is that of the answers: vectors of a cosine space are unit vectors.
  SearchSpace(std::vector<SpaceShard> shards, size_t dim, size_t n_rows, Metric metric, size_t best_of);

  size_t n_rows() const { return n_rows_; }
  size_t dim() const { return dim_; }

  // Finds min(k, n_matching) rows for each query: what the graphs leave short is scanned. Returns how many distances
  // were computed from vectors.
  size_t search(const SpaceSearch& search, Neighbors out) const;

 private:
  size_t walk(const SpaceSearch& search, Neighbors out) const;
  void scan_all(const SpaceSearch& search, Neighbors out) const;
  size_t walk_shard(const SpaceShard& shard, const SpaceSearch& search, Neighbors out) const;
  void scan_shard(const SpaceShard& shard, const SpaceSearch& search, Neighbors out) const;
  Search in_shard(const SpaceShard& shard, const SpaceSearch& search, std::vector<float>& bias) const;
  template <class Find>
  void merge_shards(const SpaceSearch& search, Neighbors out, Find&& find) const;

  std::vector<SpaceShard> shards_;
  size_t dim_;
  size_t n_rows_;
  Metric metric_;
  size_t best_of_;
};

}  // namespace likewise
