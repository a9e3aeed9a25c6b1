#include "scan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <exception>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <vector>

#include "simd.h"

namespace likewise {
namespace {

constexpr size_t panel_queries = 64;    // queries that share one pass over the rows
constexpr size_t tile_vectors = 16;     // vectors that stay in L1 while a panel meets them
constexpr size_t lone_vectors = 64;     // the same where one query meets each once: nothing has to stay
constexpr size_t chunk_vectors = 1024;  // ids gathered before they are scored: what a prefetch can look ahead into
constexpr size_t thread_work = size_t{1} << 21;  // multiplications that pay for a thread

template <class T>
const Scores<T>& scores_of(const Simd& table) {
  if constexpr (std::is_same_v<T, float>) {
    return table.f32;
  } else {
    return table.i8;
  }
}

// Vectorised: no early end. A NaN is within nothing.
bool any_within(std::span<const float> distances, float bound) {
  int n = 0;
  for (const float distance : distances) n |= static_cast<int>(distance <= bound);
  return n != 0;
}

// The running mean of the `best_of` smallest distances of one datapoint.
class BestOf {
 public:
  void reserve(size_t n) { nearest_.reserve(n); }

  void add(float distance, size_t best_of, size_t n_owned) {
    if (n_owned <= best_of) {
      sum_ += distance;
      ++n_;
    } else if (best_of == 1) {
      sum_ = n_++ == 0 ? distance : std::min<double>(sum_, distance);
    } else if (nearest_.size() < best_of) {
      nearest_.push_back(distance);
      std::push_heap(nearest_.begin(), nearest_.end());
    } else if (distance < nearest_.front()) {
      std::pop_heap(nearest_.begin(), nearest_.end());
      nearest_.back() = distance;
      std::push_heap(nearest_.begin(), nearest_.end());
    }
  }

  float finish(size_t best_of, size_t n_owned) {
    size_t n = std::min(best_of, n_owned);
    for (const float distance : nearest_) sum_ += distance;
    const auto mean = static_cast<float>(sum_ / static_cast<double>(n));
    nearest_.clear();
    sum_ = 0.0;
    n_ = 0;
    return mean;
  }

 private:
  double sum_ = 0.0;
  size_t n_ = 0;
  std::vector<float> nearest_;
};

// Scores rows for up to panel_queries queries and feeds one collector a query. One a thread; allocates on construction.
template <class T, class Collector>
class Scorer {
 public:
  template <class Make>
  Scorer(const char* operation, const Vectors<T>& vectors, const Search& search, size_t n_queries,
         Make&& make_collector)
      : operation_(operation), vectors_(vectors), search_(search), simd_(scores_of<T>(simd())) {
    collectors_.reserve(n_queries);
    for (size_t q = 0; q < n_queries; ++q) collectors_.push_back(make_collector());
    scores_.resize(std::max(n_queries * tile_vectors, lone_vectors));
    query_norms_.resize(n_queries);
    if (!vectors.offsets.empty()) {
      ids_.resize(chunk_vectors);
      owners_.resize(chunk_vectors);
      best_of_.resize(n_queries);
      const bool keeps_several = search.best_of > 1 && search.best_of < vectors.n_vectors;
      for (BestOf& best : best_of_) best.reserve(keeps_several ? search.best_of : 0);
    }
  }

  // Turns to queries [first, first + n) with empty collectors.
  void start(size_t first, size_t n) {
    first_query_ = first;
    n_queries_ = n;
    for (size_t q = 0; q < n; ++q) collectors_[q].clear();
    if (search_.metric != Metric::cosine) return;
    for (size_t q = 0; q < n; ++q) {
      const int64_t only = 0;
      simd().f32.norm({nullptr, 0, vectors_.dim, query(q), &only, 1, 0, nullptr, &query_norms_[q], 1});
      query_norms_[q] = std::sqrt(query_norms_[q]);
    }
  }

  // Expects distinct rows below n_rows.
  void visit(std::span<const int64_t> rows) {
    if (vectors_.offsets.empty()) {
      score(rows, [&](size_t q, std::span<const float> distances, std::span<const int64_t> ids) {
        offer(q, distances, ids);
      });
      return;
    }
    size_t n = 0;
    for (const int64_t row : rows) {
      const Owned owned = owned_by(row);
      for (int64_t id = owned.first; id < owned.last; ++id) {
        ids_[n] = id;
        owners_[n] = row;
        if (++n == chunk_vectors) {
          score_owned(n);
          n = 0;
        }
      }
    }
    score_owned(n);
  }

  Collector& collector(size_t q) { return collectors_[q]; }

 private:
  struct Owned {
    int64_t first;
    int64_t last;
  };

  const float* query(size_t q) const { return search_.queries.data() + (first_query_ + q) * vectors_.dim; }

  Owned owned_by(int64_t row) const {
    const int64_t first = vectors_.offsets[static_cast<size_t>(row)];
    const int64_t last = vectors_.offsets[static_cast<size_t>(row) + 1];
    if (first < 0 || last < first || static_cast<size_t>(last) > vectors_.n_vectors) {
      throw std::invalid_argument(operation_ + " offsets gives row " + std::to_string(row) + " the vectors " +
                                  std::to_string(first) + ":" + std::to_string(last) +
                                  "; expected ascending within 0:" + std::to_string(vectors_.n_vectors));
    }
    return {first, last};
  }

  float bias(size_t q, int64_t row) const {
    if (search_.bias.empty()) return 0.0F;
    return search_.bias[(first_query_ + q) * vectors_.n_rows + static_cast<size_t>(row)];
  }

  void offer(size_t q, std::span<const float> distances, std::span<const int64_t> rows) {
    Collector& collector = collectors_[q];
    if (search_.bias.empty() && !any_within(distances, collector.bound().distance)) return;
    for (size_t i = 0; i < rows.size(); ++i) {
      const Neighbor neighbor{distances[i] + bias(q, rows[i]), rows[i]};
      if (collector.admits(neighbor)) collector.push(neighbor);
    }
  }

  void score_owned(size_t n) {
    score(std::span<const int64_t>(ids_).first(n),
          [&](size_t q, std::span<const float> distances, std::span<const int64_t> ids) {
            const auto at = static_cast<size_t>(ids.data() - ids_.data());
            for (size_t i = 0; i < ids.size(); ++i) {
              const int64_t row = owners_[at + i];
              const int64_t last = vectors_.offsets[static_cast<size_t>(row) + 1];
              const auto n_owned = static_cast<size_t>(last - vectors_.offsets[static_cast<size_t>(row)]);
              best_of_[q].add(distances[i], search_.best_of, n_owned);
              if (ids[i] + 1 != last) continue;
              const float distance = best_of_[q].finish(search_.best_of, n_owned);
              offer(q, {&distance, 1}, {&row, 1});
            }
          });
  }

  // Calls take(query, distances, ids) tile after tile, in order for each query.
  template <class Take>
  void score(std::span<const int64_t> ids, Take&& take) {
    const bool is_lone = n_queries_ == 1;
    const size_t tile_size = is_lone ? lone_vectors : tile_vectors;
    for (size_t at = 0; at < ids.size(); at += tile_size) {
      const size_t n = std::min(tile_size, ids.size() - at);
      Panel<T> panel{
          query(0),        n_queries_, vectors_.dim,        vectors_.values.data(),
          ids.data() + at, n,          ids.size() - at - n, vectors_.scales.empty() ? nullptr : vectors_.scales.data(),
          scores_.data(),  tile_size,  norms_.data()};
      if (search_.metric == Metric::l2) {
        simd_.l2(panel);
      } else if (search_.metric == Metric::cosine && is_lone) {
        simd_.dot_and_norm(panel);
      } else {
        if (search_.metric == Metric::cosine) {
          panel.out = norms_.data();
          simd_.norm(panel);
          panel.out = scores_.data();
          panel.n_ahead = 0;  // the norms have fetched it
        }
        simd_.dot(panel);
      }
      const std::span<const int64_t> tile = ids.subspan(at, n);
      if (search_.metric == Metric::ip) turn_into_distances(tile, tile_size);
      if (search_.metric == Metric::cosine) turn_into_cosines(tile, tile_size);
      for (size_t q = 0; q < n_queries_; ++q) {
        take(q, std::span<const float>(scores_).subspan(q * tile_size, n), tile);
      }
    }
  }

  void turn_into_distances(std::span<const int64_t> ids, size_t tile_size) {
    std::array<float, lone_vectors> scales;
    gather_scales(ids, scales);
    for (size_t q = 0; q < n_queries_; ++q) {
      float* scores = scores_.data() + q * tile_size;
      for (size_t i = 0; i < ids.size(); ++i) scores[i] = -(scores[i] * scales[i]);
    }
  }

  void turn_into_cosines(std::span<const int64_t> ids, size_t tile_size) {
    std::array<float, lone_vectors> scales;
    gather_scales(ids, scales);
    for (size_t i = 0; i < ids.size(); ++i) norms_[i] = std::sqrt(norms_[i]) * scales[i];
    for (size_t q = 0; q < n_queries_; ++q) {
      float* scores = scores_.data() + q * tile_size;
      for (size_t i = 0; i < ids.size(); ++i) {
        const float norms = query_norms_[q] * norms_[i];
        scores[i] = 1.0F - (norms > 0.0F ? scores[i] * scales[i] / norms : 0.0F);
      }
    }
  }

  void gather_scales(std::span<const int64_t> ids, std::span<float> scales) const {
    for (size_t i = 0; i < ids.size(); ++i) {
      scales[i] = vectors_.scales.empty() ? 1.0F : vectors_.scales[static_cast<size_t>(ids[i])];
    }
  }

  std::string operation_;
  const Vectors<T>& vectors_;
  const Search& search_;
  const Scores<T>& simd_;
  size_t first_query_ = 0;
  size_t n_queries_ = 0;
  std::vector<Collector> collectors_;
  std::vector<float> scores_;
  std::vector<float> query_norms_;
  std::array<float, lone_vectors> norms_{};
  std::vector<int64_t> ids_;
  std::vector<int64_t> owners_;
  std::vector<BestOf> best_of_;
};

// Runs work(i) for i below n, one thread each; work(0), and what no thread can be had for, on the caller's.
template <class Work>
void run_threads(size_t n, Work&& work) {
  std::vector<std::exception_ptr> faults(n);
  const auto guarded = [&](size_t i) {
    try {
      work(i);
    } catch (...) {
      faults[i] = std::current_exception();
    }
  };
  std::vector<std::thread> threads;
  threads.reserve(n);
  size_t started = 1;
  try {
    for (; started < n; ++started) threads.emplace_back(guarded, started);
  } catch (const std::system_error&) {
  }
  guarded(0);
  for (size_t i = started; i < n; ++i) guarded(i);
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& fault : faults) {
    if (fault) std::rethrow_exception(fault);
  }
}

// Word positions that split the chosen rows into n parts of about one size.
std::vector<size_t> split_words(const Search& search, size_t n_rows, size_t n_chosen, size_t n) {
  const size_t n_words = words_for(n_rows);
  std::vector<size_t> bounds(n + 1, n_words);
  bounds[0] = 0;
  if (n == 1) return bounds;
  size_t seen = 0;
  size_t part = 1;
  for (size_t w = 0; w < n_words && part < n; ++w) {
    const uint64_t live = live_bits(w, n_rows);
    seen += static_cast<size_t>(std::popcount(search.has_mask ? search.mask[w] & live : live));
    while (part < n && seen * n >= n_chosen * part) bounds[part++] = w + 1;
  }
  return bounds;
}

template <class T, class Collector>
void scan_words(Scorer<T, Collector>& scorer, const Vectors<T>& vectors, const Search& search, size_t first,
                size_t last) {
  std::array<int64_t, chunk_vectors> rows;
  size_t n = 0;
  const auto visit = [&](int64_t row) {
    rows[n++] = row;
    if (n == rows.size()) {
      scorer.visit(rows);
      n = 0;
    }
  };
  if (search.has_mask) {
    for_each_row(search.mask, vectors.n_rows, first, last, visit);
  } else {
    const size_t end = std::min(last * word_bits, vectors.n_rows);
    for (size_t row = first * word_bits; row < end; ++row) visit(static_cast<int64_t>(row));
  }
  scorer.visit({rows.data(), n});
}

template <class T, class Make>
void scan_with(const Vectors<T>& vectors, const Search& search, size_t n_chosen, Make&& make_collector, Neighbors out) {
  using Collector = std::invoke_result_t<Make>;
  const size_t n_panel = std::min(panel_queries, search.n_queries);
  const size_t work = n_chosen * vectors.dim * n_panel;
  const size_t n_threads = std::clamp<size_t>(work / thread_work, 1, search.n_threads);
  const std::vector<size_t> bounds = split_words(search, vectors.n_rows, n_chosen, n_threads);
  std::vector<Scorer<T, Collector>> scorers;
  scorers.reserve(n_threads);
  for (size_t i = 0; i < n_threads; ++i) scorers.emplace_back("[scan]", vectors, search, n_panel, make_collector);
  for (size_t first = 0; first < search.n_queries; first += n_panel) {
    const size_t n = std::min(n_panel, search.n_queries - first);
    run_threads(n_threads, [&](size_t i) {
      scorers[i].start(first, n);
      scan_words(scorers[i], vectors, search, bounds[i], bounds[i + 1]);
    });
    for (size_t q = 0; q < n; ++q) {
      Collector& collector = scorers[0].collector(q);
      for (size_t i = 1; i < n_threads; ++i) collector.absorb(scorers[i].collector(q));
      const size_t at = (first + q) * search.k;
      collector.finish(out.rows.subspan(at, search.k), out.distances.subspan(at, search.k));
    }
  }
}

// Ascending distinct rows of one query's candidates that the mask lets through, written to `out`.
size_t distinct_rows(std::span<const int64_t> candidates, const Search& search, size_t n_rows, std::span<int64_t> out) {
  size_t n = 0;
  for (const int64_t row : candidates) {
    if (row == -1) continue;
    if (row < -1 || static_cast<uint64_t>(row) >= n_rows) {
      throw std::out_of_range("[rescore] candidates holds " + std::to_string(row) + "; expected -1 or 0 <= row < " +
                              std::to_string(n_rows));
    }
    const auto at = static_cast<size_t>(row);
    if (search.has_mask && (search.mask[at / word_bits] >> (at % word_bits) & 1U) == 0) continue;
    out[n++] = row;
  }
  std::sort(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(n));
  const auto end = std::unique(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(n));
  return static_cast<size_t>(end - out.begin());
}

template <class T, class Make>
void rescore_with(const Vectors<T>& vectors, const Search& search, std::span<const int64_t> candidates,
                  Make&& make_collector, Neighbors out) {
  using Collector = std::invoke_result_t<Make>;
  const size_t m = candidates.size() / search.n_queries;
  const size_t work = candidates.size() * vectors.dim;
  const size_t n_threads = std::clamp<size_t>(work / thread_work, 1, std::min(search.n_threads, search.n_queries));
  std::vector<Scorer<T, Collector>> scorers;
  scorers.reserve(n_threads);
  for (size_t i = 0; i < n_threads; ++i) scorers.emplace_back("[rescore]", vectors, search, 1, make_collector);
  std::vector<int64_t> rows(n_threads * m);
  run_threads(n_threads, [&](size_t i) {
    const size_t end = search.n_queries * (i + 1) / n_threads;
    const std::span<int64_t> mine = std::span(rows).subspan(i * m, m);
    for (size_t q = search.n_queries * i / n_threads; q < end; ++q) {
      const size_t n = distinct_rows(candidates.subspan(q * m, m), search, vectors.n_rows, mine);
      scorers[i].start(q, 1);
      scorers[i].visit(mine.first(n));
      scorers[i].collector(0).finish(out.rows.subspan(q * search.k, search.k),
                                     out.distances.subspan(q * search.k, search.k));
    }
  });
}

}  // namespace

template <class T>
void scan(const Vectors<T>& vectors, const Search& search, Neighbors out) {
  const size_t n_chosen = search.has_mask ? count(search.mask, vectors.n_rows) : vectors.n_rows;
  const size_t k = std::min(search.k, n_chosen);
  if (search.crowding.cap == 0) {
    scan_with(vectors, search, n_chosen, [&] { return TopK(k); }, out);
  } else {
    scan_with(vectors, search, n_chosen, [&] { return CrowdedTopK(k, search.crowding); }, out);
  }
}

template <class T>
void rescore(const Vectors<T>& vectors, const Search& search, std::span<const int64_t> candidates, Neighbors out) {
  if (search.n_queries == 0) return;
  const size_t k = std::min(search.k, candidates.size() / search.n_queries);
  if (search.crowding.cap == 0) {
    rescore_with(vectors, search, candidates, [&] { return TopK(k); }, out);
  } else {
    rescore_with(vectors, search, candidates, [&] { return CrowdedTopK(k, search.crowding); }, out);
  }
}

void merge(std::span<const int64_t> rows, std::span<const float> distances, size_t n_shards, size_t n_queries, size_t k,
           const Crowding& crowding, Neighbors out) {
  const size_t m = n_shards * n_queries == 0 ? 0 : rows.size() / (n_shards * n_queries);
  const bool is_crowded = crowding.cap != 0;
  std::vector<Neighbor> found;
  found.reserve(n_shards * m);
  TopK plain(is_crowded ? 0 : std::min(k, n_shards * m));
  CrowdedTopK crowded(is_crowded ? std::min(k, n_shards * m) : 0, crowding);
  const auto collect = [&](auto& collector, size_t q) {
    collector.clear();
    int64_t before = -1;
    for (const Neighbor& neighbor : found) {
      if (neighbor.row != before && collector.admits(neighbor)) collector.push(neighbor);
      before = neighbor.row;
    }
    collector.finish(out.rows.subspan(q * k, k), out.distances.subspan(q * k, k));
  };
  for (size_t q = 0; q < n_queries; ++q) {
    found.clear();
    for (size_t s = 0; s < n_shards; ++s) {
      for (size_t i = (s * n_queries + q) * m; i < (s * n_queries + q + 1) * m; ++i) {
        const bool is_bad = rows[i] < -1 || (is_crowded && rows[i] >= static_cast<int64_t>(crowding.tags.size()));
        if (is_bad) {
          throw std::out_of_range("[merge] rows holds " + std::to_string(rows[i]) + "; expected -1 or 0 <= row" +
                                  (is_crowded ? " < " + std::to_string(crowding.tags.size()) : std::string()));
        }
        if (rows[i] >= 0 && distances[i] < no_neighbor.distance) found.push_back({distances[i], rows[i]});
      }
    }
    std::sort(found.begin(), found.end(), [](const Neighbor& a, const Neighbor& b) {
      return a.row < b.row || (a.row == b.row && a.distance < b.distance);
    });
    if (is_crowded) {
      collect(crowded, q);
    } else {
      collect(plain, q);
    }
  }
}

template void scan(const Vectors<float>&, const Search&, Neighbors);
template void scan(const Vectors<int8_t>&, const Search&, Neighbors);
template void rescore(const Vectors<float>&, const Search&, std::span<const int64_t>, Neighbors);
template void rescore(const Vectors<int8_t>&, const Search&, std::span<const int64_t>, Neighbors);

}  // namespace likewise
