// A space of shards against plain loops in double, built to run under sanitizers: every buffer has its exact size on
// the heap.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "bitmap.h"
#include "check.h"
#include "search_space.h"

namespace {

using namespace likewise;

std::mt19937 generator(5);

int draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
float draw_float() { return std::normal_distribution<float>()(generator); }
bool draw_bool(double share) { return std::bernoulli_distribution(share)(generator); }

// What a shard borrows.
struct Held {
  std::vector<float> vectors;
  std::vector<int64_t> offsets;  // empty: one vector a row
  std::unique_ptr<GraphIndex> graph;
  size_t first_row;
  size_t n_rows;
  bool grows;
};

struct Case {
  size_t dim;
  Metric metric;
  bool is_grouped;
  size_t best_of;
  size_t n_rows = 0;
  std::vector<Held> shards;
  std::vector<int32_t> tags;
  std::vector<uint64_t> live;  // rows that own a vector

  Case(size_t dim_, Metric metric_, bool is_grouped_, bool has_graphs)
      : dim(dim_), metric(metric_), is_grouped(is_grouped_), best_of(is_grouped_ ? 2 : 1) {
    const int n_shards = draw(1, 3);
    for (int at = 0; at < n_shards; ++at) {
      Held held;
      held.first_row = n_rows;
      held.grows = has_graphs && at > 0 && at + 1 == n_shards;
      held.n_rows = static_cast<size_t>(held.grows && draw_bool(0.2) ? 0 : draw(0, 200));
      size_t n_vectors = 0;
      for (size_t row = 0; row < held.n_rows; ++row) {
        if (is_grouped) held.offsets.push_back(static_cast<int64_t>(n_vectors));
        n_vectors += is_grouped ? static_cast<size_t>(draw(0, 3)) : 1;
      }
      if (is_grouped) held.offsets.push_back(static_cast<int64_t>(n_vectors));
      const size_t n_more = held.grows ? 20 : 0;
      std::vector<float> all((n_vectors + n_more) * dim);
      for (size_t v = 0; v < n_vectors + n_more; ++v) fill_vector(std::span(all).subspan(v * dim, dim));
      if (has_graphs && n_vectors + n_more > 0) {
        held.graph = std::make_unique<GraphIndex>(dim, metric, 3, LinkOptions{16, 48, 1.0F}, draw_bool(0.5));
        held.graph->build(all.data(), n_vectors + n_more, 1, {});
      }
      held.vectors.assign(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(n_vectors * dim));
      n_rows = held.first_row + words_for(held.n_rows) * word_bits;
      shards.push_back(std::move(held));
    }
    n_rows = shards.back().first_row + shards.back().n_rows;
    live.resize(words_for(n_rows));
    for (const Held& held : shards) {
      for (size_t row = 0; row < held.n_rows; ++row) {
        if (is_grouped && held.offsets[row] == held.offsets[row + 1]) continue;
        live[(held.first_row + row) / 64] |= uint64_t{1} << (held.first_row + row) % 64;
      }
    }
    for (size_t row = 0; row < n_rows; ++row) tags.push_back(draw(-1, 5));
  }

  void fill_vector(std::span<float> vector) const {
    double norm = 0;
    for (float& value : vector) {
      value = draw_float();
      norm += double{value} * value;
    }
    if (metric != Metric::cosine) return;
    for (float& value : vector) value = static_cast<float>(value / std::sqrt(norm));
  }

  SearchSpace space() const {
    std::vector<SpaceShard> out;
    for (const Held& held : shards) {
      const Vectors<float> vectors{held.vectors, held.vectors.size() / dim, held.n_rows, dim, {}, held.offsets};
      out.push_back({static_cast<int64_t>(held.first_row), vectors, held.graph.get(), held.grows});
    }
    return {std::move(out), dim, n_rows, metric, best_of};
  }

  double distance(const Held& held, size_t row, const float* query) const {
    std::vector<double> found;
    const size_t first = is_grouped ? static_cast<size_t>(held.offsets[row]) : row;
    const size_t last = is_grouped ? static_cast<size_t>(held.offsets[row + 1]) : row + 1;
    for (size_t v = first; v < last; ++v) {
      double dot = 0;
      double apart = 0;
      for (size_t i = 0; i < dim; ++i) {
        const double a = held.vectors[v * dim + i];
        dot += a * query[i];
        apart += (a - query[i]) * (a - query[i]);
      }
      found.push_back(metric == Metric::l2 ? apart : metric == Metric::ip ? -dot : 1 - dot);
    }
    std::sort(found.begin(), found.end());
    const size_t n = std::min(found.size(), best_of);
    double sum = 0;
    for (size_t i = 0; i < n; ++i) sum += found[i];
    return sum / static_cast<double>(n);
  }
};

void test_searches(const Case& held) {
  const SearchSpace space = held.space();
  const size_t n_queries = static_cast<size_t>(draw(1, 3));
  std::vector<float> queries(n_queries * held.dim);
  for (size_t q = 0; q < n_queries; ++q) held.fill_vector(std::span(queries).subspan(q * held.dim, held.dim));
  std::vector<uint64_t> matching = held.live;
  const double share = draw_bool(0.3) ? 0.02 : 0.6;
  for (size_t row = 0; row < held.n_rows; ++row) {
    if (!draw_bool(share)) matching[row / 64] &= ~(uint64_t{1} << row % 64);
  }
  std::vector<float> bias(draw_bool(0.3) ? n_queries * held.n_rows : 0);
  for (float& each : bias) each = draw_bool(0.2) ? -std::fabs(draw_float()) : 0;
  const size_t k = static_cast<size_t>(draw(1, 12));
  SpaceSearch search{queries, n_queries, k};
  search.effort = draw_bool(0.5) ? 0 : 400;
  search.n_candidates = 1000;  // all there are, so that a walk leaves nothing out but what it does not reach
  search.matching = matching.data();
  search.n_matching = count(matching, held.n_rows);
  search.bias = bias;
  search.tag_cap = draw_bool(0.4) ? static_cast<size_t>(draw(1, 3)) : 0;
  if (search.tag_cap != 0) search.tags = held.tags;
  std::vector<int64_t> rows(n_queries * k);
  std::vector<float> distances(n_queries * k);
  space.search(search, {rows, distances});
  for (size_t q = 0; q < n_queries; ++q) {
    std::vector<std::pair<double, int64_t>> wanted;
    for (const Held& shard : held.shards) {
      for (size_t row = 0; row < shard.n_rows; ++row) {
        const size_t at = shard.first_row + row;
        if ((matching[at / 64] >> at % 64 & 1U) == 0) continue;
        const double added = bias.empty() ? 0 : bias[q * held.n_rows + at];
        wanted.emplace_back(held.distance(shard, row, queries.data() + q * held.dim) + added, at);
      }
    }
    std::sort(wanted.begin(), wanted.end());
    std::vector<int> seen(7);
    size_t n = 0;
    for (const auto& [distance, row] : wanted) {
      const int32_t tag = held.tags[static_cast<size_t>(row)];
      const bool is_over =
          search.tag_cap != 0 && tag >= 0 && seen[static_cast<size_t>(tag)]++ >= static_cast<int>(search.tag_cap);
      if (is_over || n == k) continue;
      CHECK(rows[q * k + n] >= 0);
      CHECK(std::fabs(distances[q * k + n] - distance) < 1e-3 * (1 + std::fabs(distance)));
      ++n;
    }
    for (; n < k; ++n) CHECK(rows[q * k + n] == -1);
  }
}

}  // namespace

int main() {
  for (int i = 0; i < 300; ++i) {
    const Metric metric = std::vector{Metric::ip, Metric::cosine, Metric::l2}[static_cast<size_t>(i % 3)];
    const Case held(static_cast<size_t>(draw(8, 70)), metric, draw_bool(0.4), i % 2 == 0);
    for (int j = 0; j < 4; ++j) test_searches(held);
  }
  return report();
}
