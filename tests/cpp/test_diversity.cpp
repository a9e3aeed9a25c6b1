// The choice under caps, quotas and MMR against an exhaustive search, built to run under sanitizers: every buffer has
// its exact size on the heap, so that one element too far is an error.
#include "diversity.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"

namespace {

using namespace likewise;

std::mt19937 generator(7);

int draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

// Small integers: every distance is exact in float32, whatever the order of its sums.
template <class T>
std::vector<T> draw_values(size_t n, int low, int high) {
  std::vector<T> values(n);
  for (T& value : values) value = static_cast<T>(draw(low, high));
  return values;
}

struct Answer {
  Answer(size_t n_queries, size_t k, size_t n_columns, size_t n_quotas)
      : positions(n_queries * k),
        given_up(n_queries * (n_columns + 2)),
        moved(n_queries * (n_columns + 2)),
        shortfall(n_queries * n_quotas) {}
  Diversified view() { return {positions, given_up, moved, shortfall}; }
  std::vector<int64_t> positions;
  std::vector<float> given_up;
  std::vector<int32_t> moved;
  std::vector<int32_t> shortfall;
};

struct Case {
  size_t n_columns;
  size_t n_rows;
  size_t k;
  std::vector<int64_t> rows;
  std::vector<float> distances;
  std::vector<int32_t> tags;
  std::vector<int32_t> caps;
  std::vector<Quota> quotas;
  std::vector<float> vectors;
  size_t dim;

  TagRules rules() const { return {tags, caps, quotas, n_columns}; }
  Mmr mmr(Metric metric, double lambda) const { return {vectors, dim, metric, lambda}; }

  uint32_t carriers(size_t column, int32_t tag) const {
    uint32_t set = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      const bool has_tag = tags[column * n_rows + static_cast<size_t>(rows[i])] == tag;
      set |= static_cast<uint32_t>(has_tag) << i;
    }
    return set;
  }

  // All sets that keep within the rules and fill the quotas, each as far as those before it let it.
  std::vector<uint32_t> sound_sets() const {
    const auto n_in = [](uint32_t set) { return static_cast<size_t>(std::popcount(set)); };
    std::vector<uint32_t> sound;
    for (uint32_t set = 0; set < 1U << rows.size(); ++set) {
      bool holds = n_in(set) <= k;
      for (size_t column = 0; holds && column < n_columns; ++column) {
        for (int32_t tag = 0; holds && tag < 6; ++tag) {
          size_t most = caps[column] == 0 ? k : static_cast<size_t>(caps[column]);
          for (const Quota& quota : quotas) {
            if (quota.column == column && quota.tag == tag) most = quota.most;
          }
          holds = n_in(set & carriers(column, tag)) <= most;
        }
      }
      if (holds) sound.push_back(set);
    }
    for (const Quota& quota : quotas) {
      const uint32_t carrying = carriers(quota.column, quota.tag);
      size_t best = 0;
      for (const uint32_t set : sound) best = std::max(best, std::min(n_in(set & carrying), quota.least));
      std::erase_if(sound, [&](uint32_t set) { return n_in(set & carrying) < best; });
    }
    return sound;
  }

  double between(size_t a, size_t b, Metric metric) const {
    double dot = 0;
    double gap = 0;
    double norms[2] = {0, 0};
    for (size_t i = 0; i < dim; ++i) {
      const double x = vectors[static_cast<size_t>(rows[a]) * dim + i];
      const double y = vectors[static_cast<size_t>(rows[b]) * dim + i];
      dot += x * y;
      gap += (x - y) * (x - y);
      norms[0] += x * x;
      norms[1] += y * y;
    }
    if (metric == Metric::ip) return -dot;
    if (metric == Metric::l2) return gap;
    const double norm = std::sqrt(norms[0] * norms[1]);
    return 1.0 - (norm > 0 ? dot / norm : 0.0);
  }

  std::vector<size_t> plain_choice(Metric metric, double lambda) const {
    const std::vector<uint32_t> sound = sound_sets();
    std::vector<size_t> chosen;
    for (uint32_t set = 0; chosen.size() < k;) {
      size_t best = rows.size();
      double least = 0;
      for (size_t at = 0; at < rows.size(); ++at) {
        const uint32_t wider = set | 1U << at;
        if (wider == set) continue;
        if (std::none_of(sound.begin(), sound.end(), [&](uint32_t each) { return (wider & ~each) == 0; })) continue;
        double nearest = std::numeric_limits<double>::infinity();
        for (const size_t other : chosen) nearest = std::min(nearest, between(at, other, metric));
        const double cost = lambda * distances[at] - (lambda < 1 && !chosen.empty() ? (1 - lambda) * nearest : 0.0);
        if (best != rows.size() && cost >= least) continue;
        best = at;
        least = cost;
      }
      if (best == rows.size()) break;
      chosen.push_back(best);
      set |= 1U << best;
    }
    return chosen;
  }
};

// With one column of quotas and one more that is capped, the choice is promised to be that of an exhaustive search.
Case draw_case(size_t n_columns, size_t n_quota_columns) {
  Case drawn;
  const auto n = static_cast<size_t>(draw(0, 9));
  drawn.n_columns = n_columns;
  drawn.n_rows = n + static_cast<size_t>(draw(0, 3));
  drawn.k = static_cast<size_t>(draw(1, 6));
  drawn.rows.resize(drawn.n_rows);
  for (size_t i = 0; i < drawn.n_rows; ++i) drawn.rows[i] = static_cast<int64_t>(i);
  std::shuffle(drawn.rows.begin(), drawn.rows.end(), generator);
  drawn.rows.resize(n);
  drawn.rows.shrink_to_fit();
  drawn.distances = draw_values<float>(n, -4, 4);
  std::sort(drawn.distances.begin(), drawn.distances.end());
  drawn.tags = draw_values<int32_t>(drawn.n_columns * drawn.n_rows, -1, draw(0, 4));
  drawn.caps = draw_values<int32_t>(drawn.n_columns, 0, 3);
  for (size_t column = 0; column < n_quota_columns; ++column) {
    for (int32_t tag = 0; tag < 5; ++tag) {
      const int least = draw(0, 2);
      if (draw(0, 1) == 0) continue;
      drawn.quotas.push_back({column, tag, static_cast<size_t>(least), static_cast<size_t>(draw(least, 4))});
    }
  }
  std::shuffle(drawn.quotas.begin(), drawn.quotas.end(), generator);
  drawn.dim = size_t{1} << 2 * draw(0, 2);  // so that the norm of a vector of ones is a power of two
  for (const float sign : draw_values<float>(drawn.n_rows * drawn.dim, 0, 1)) drawn.vectors.push_back(2 * sign - 1);
  drawn.vectors.shrink_to_fit();
  return drawn;
}

void test_exhaustively() {
  for (int round = 0; round < 1500; ++round) {
    const Case drawn = draw_case(static_cast<size_t>(draw(1, 2)), 1);
    const auto metric = static_cast<Metric>(draw(0, 2));
    const double lambda = draw(0, 4) / 4.0;
    Answer answer(1, drawn.k, drawn.n_columns, drawn.quotas.size());
    diversify({drawn.rows, drawn.distances, 1, drawn.rows.size()}, drawn.rules(), drawn.mmr(metric, lambda),
              drawn.n_rows, drawn.k, answer.view());
    const std::vector<size_t> wanted = drawn.plain_choice(metric, lambda);
    double cost = 0;
    uint32_t set = 0;
    for (size_t i = 0; i < drawn.k; ++i) {
      CHECK(answer.positions[i] == (i < wanted.size() ? static_cast<int64_t>(wanted[i]) : -1));
      if (i >= wanted.size()) continue;
      cost += drawn.distances[wanted[i]] - drawn.distances[i];
      set |= 1U << wanted[i];
    }
    double given_up = 0;
    for (const float part : answer.given_up) given_up += part;
    CHECK(given_up == cost);
    for (size_t i = 0; i < drawn.quotas.size(); ++i) {
      const Quota& quota = drawn.quotas[i];
      const auto n = static_cast<size_t>(std::popcount(set & drawn.carriers(quota.column, quota.tag)));
      CHECK(answer.shortfall[i] == static_cast<int32_t>(quota.least - std::min(n, quota.least)));
    }
  }
}

// Beyond that it is one path's search away from exact.
void test_how_often_an_exchange_is_overlooked() {
  const int n_rounds = 4000;
  int n_differ = 0;
  for (int round = 0; round < n_rounds; ++round) {
    const Case drawn = draw_case(static_cast<size_t>(draw(2, 3)), 2);
    Answer answer(1, drawn.k, drawn.n_columns, drawn.quotas.size());
    diversify({drawn.rows, drawn.distances, 1, drawn.rows.size()}, drawn.rules(), {}, drawn.n_rows, drawn.k,
              answer.view());
    const std::vector<size_t> wanted = drawn.plain_choice(Metric::ip, 1.0);
    for (size_t i = 0; i < drawn.k; ++i) {
      if (answer.positions[i] == (i < wanted.size() ? static_cast<int64_t>(wanted[i]) : -1)) continue;
      ++n_differ;
      break;
    }
  }
  CHECK(n_differ * 200 < n_rounds);
}

// No oracle for many candidates: the rules must hold, and nothing may be read or written out of place.
void test_many_columns() {
  for (int round = 0; round < 300; ++round) {
    const auto n = static_cast<size_t>(draw(0, 120));
    const auto n_columns = static_cast<size_t>(draw(0, 4));
    const auto k = static_cast<size_t>(draw(1, 40));
    const auto dim = static_cast<size_t>(draw(1, 40));
    std::vector<int64_t> rows(2 * n);
    for (size_t i = 0; i < rows.size(); ++i) rows[i] = draw(0, 9) == 0 ? -1 : static_cast<int64_t>(i % n);
    auto distances = draw_values<float>(2 * n, -9, 9);
    std::sort(distances.begin(), distances.begin() + static_cast<std::ptrdiff_t>(n));
    std::sort(distances.begin() + static_cast<std::ptrdiff_t>(n), distances.end());
    const auto tags = draw_values<int32_t>(n_columns * n, -1, 7);
    const auto caps = draw_values<int32_t>(n_columns, 0, 6);
    const auto vectors = draw_values<float>(n * dim, -3, 3);
    std::vector<Quota> quotas;
    for (size_t column = 0; column < n_columns; ++column) {
      for (int32_t tag = 0; tag < 9; ++tag) {
        const auto least = static_cast<size_t>(draw(0, 3));
        if (draw(0, 1) == 0) quotas.push_back({column, tag, least, least + static_cast<size_t>(draw(0, 3))});
      }
    }
    Answer answer(2, k, n_columns, quotas.size());
    diversify({rows, distances, 2, n}, {tags, caps, quotas, n_columns},
              {vectors, dim, static_cast<Metric>(draw(0, 2)), draw(0, 2) / 2.0}, n, k, answer.view());
    for (size_t q = 0; q < 2; ++q) {
      std::vector<bool> is_chosen(n);
      for (size_t i = 0; i < k; ++i) {
        const int64_t at = answer.positions[q * k + i];
        if (at == -1) continue;
        CHECK(at >= 0 && static_cast<size_t>(at) < n);
        CHECK(rows[q * n + static_cast<size_t>(at)] != -1);
        CHECK(i == 0 || answer.positions[q * k + i - 1] != -1);
        CHECK(!is_chosen[static_cast<size_t>(at)]);
        is_chosen[static_cast<size_t>(at)] = true;
      }
      for (size_t column = 0; column < n_columns; ++column) {
        for (int32_t tag = 0; tag < 9; ++tag) {
          size_t n_carrying = 0;
          for (size_t at = 0; at < n; ++at) {
            const int64_t row = rows[q * n + at];
            n_carrying += is_chosen[at] && tags[column * n + static_cast<size_t>(row)] == tag;
          }
          size_t most = caps[column] == 0 ? k : static_cast<size_t>(caps[column]);
          for (size_t i = 0; i < quotas.size(); ++i) {
            if (quotas[i].column != column || quotas[i].tag != tag) continue;
            most = quotas[i].most;
            const size_t lacking = quotas[i].least - std::min(n_carrying, quotas[i].least);
            CHECK(answer.shortfall[q * quotas.size() + i] == static_cast<int32_t>(lacking));
          }
          CHECK(n_carrying <= most);
        }
      }
    }
  }
}

void test_not_finite() {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<int64_t> rows{0, 1, 2, 3};
  const std::vector<float> distances{0, nan, 1, inf};
  const std::vector<float> vectors{1, 1, nan, inf};
  Answer answer(1, 4, 0, 0);
  diversify({rows, distances, 1, 4}, {}, {vectors, 1, Metric::ip, 0.5}, 4, 4, answer.view());
  CHECK((answer.positions == std::vector<int64_t>{0, 2, -1, -1}));
  diversify({rows, distances, 1, 4}, {}, {}, any_row, 4, answer.view());
  CHECK((answer.positions == std::vector<int64_t>{0, 2, -1, -1}));
}

void test_bad_candidates() {
  Answer answer(1, 2, 0, 0);
  for (const int64_t row : {int64_t{-2}, int64_t{5}, std::numeric_limits<int64_t>::max()}) {
    const std::vector<int64_t> rows{0, row};
    const std::vector<float> distances{0, 1};
    CHECK(raises<std::out_of_range>([&] { diversify({rows, distances, 1, 2}, {}, {}, 5, 2, answer.view()); },
                                    "[diversify] rows holds " + std::to_string(row) + "; expected -1 or 0 <= row < 5"));
  }
  const std::vector<int64_t> rows{0, 1};
  for (const float distance : {0.5F, -std::numeric_limits<float>::infinity()}) {
    const std::vector<float> distances{1, distance};
    CHECK(raises<std::invalid_argument>([&] { diversify({rows, distances, 1, 2}, {}, {}, 5, 2, answer.view()); },
                                        "[diversify] distances of query 0 falls to "));
  }
}

}  // namespace

int main() {
  test_exhaustively();
  test_how_often_an_exchange_is_overlooked();
  test_many_columns();
  test_not_finite();
  test_bad_candidates();
  return report();
}
