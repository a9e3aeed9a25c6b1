// Exact nearest neighbours: of the rows of a bitmap, of listed candidates, and of several answers merged.
//
// Callers pass matching sizes. What only the data can show is checked here before it is used as an index:
// offsets of the rows that are visited (std::invalid_argument) and rows handed in (std::out_of_range).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "bitmap.h"
#include "crowding.h"

namespace likewise {

enum class Metric { ip, cosine, l2 };  // -dot, 1 - cos (a zero vector has cos 0), squared L2

// Datapoint r owns vectors offsets[r] : offsets[r + 1], or vector r when offsets is empty. T is float or int8_t.
template <class T>
struct Vectors {
  std::span<const T> values;  // [n_vectors, dim]
  size_t n_vectors;
  size_t n_rows;
  size_t dim;
  std::span<const float> scales;  // [n_vectors], each > 0; empty = 1
  std::span<const int64_t> offsets;
};

struct Search {
  std::span<const float> queries;  // [n_queries, dim]
  size_t n_queries;
  size_t k;
  Metric metric;
  size_t best_of = 1;  // a datapoint's distance is the mean over this many of its nearest vectors
  bool has_mask = false;
  ConstBitmap mask{};             // [n_rows] bits
  std::span<const float> bias{};  // [n_queries, n_rows], added to the distance; empty = 0
  Crowding crowding{};
  size_t n_threads = 1;  // the answer does not depend on it
};

struct Neighbors {
  std::span<int64_t> rows;  // [n_queries, k]
  std::span<float> distances;
};

template <class T>
void scan(const Vectors<T>& vectors, const Search& search, Neighbors out);

// candidates [n_queries, m]: rows, -1 = none; a repeated one counts once.
template <class T>
void rescore(const Vectors<T>& vectors, const Search& search, std::span<const int64_t> candidates, Neighbors out);

// rows, distances [n_shards, n_queries, m]; a row in two lists counts once, with its smaller distance.
void merge(std::span<const int64_t> rows, std::span<const float> distances, size_t n_shards, size_t n_queries, size_t k,
           const Crowding& crowding, Neighbors out);

}  // namespace likewise
