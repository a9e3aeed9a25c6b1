// The kernels on their edges, against plain loops in double, built to run under sanitizers: every buffer has its exact
// size on the heap, so that one element too far is an error.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "bitmap.h"
#include "check.h"
#include "crc32c.h"
#include "scan.h"
#include "sparse.h"
#include "topk.h"

namespace {

using namespace likewise;

std::mt19937 generator(7);

int draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }

// Small integers: every sum is exact in float32, whatever its order.
template <class T>
std::vector<T> draw_values(size_t n, int low = -5, int high = 5) {
  std::vector<T> values(n);
  for (T& value : values) value = static_cast<T>(draw(low, high));
  return values;
}

struct Answer {
  Answer(size_t n_queries, size_t k) : rows(n_queries * k), distances(n_queries * k) {}
  Neighbors view() { return {rows, distances}; }
  bool operator==(const Answer&) const = default;
  std::vector<int64_t> rows;
  std::vector<float> distances;
};

template <class T>
float plain_distance(const Vectors<T>& vectors, const Search& search, size_t q, size_t id) {
  double dot = 0;
  double square = 0;
  double gap = 0;
  double query_square = 0;
  const float scale = vectors.scales.empty() ? 1.0F : vectors.scales[id];
  for (size_t i = 0; i < vectors.dim; ++i) {
    const double a = search.queries[q * vectors.dim + i];
    const double b = static_cast<double>(scale) * static_cast<double>(vectors.values[id * vectors.dim + i]);
    dot += a * b;
    square += b * b;
    query_square += a * a;
    gap += (a - b) * (a - b);
  }
  if (search.metric == Metric::ip) return static_cast<float>(-dot);
  if (search.metric == Metric::l2) return static_cast<float>(gap);
  const double norms = std::sqrt(square * query_square);
  return static_cast<float>(1.0 - (norms > 0 ? dot / norms : 0.0));
}

// Every row's distance, sorted, then taken greedily under the cap.
template <class T>
Answer plain_search(const Vectors<T>& vectors, const Search& search, const std::vector<std::vector<int64_t>>& rows) {
  Answer answer(search.n_queries, search.k);
  for (size_t q = 0; q < search.n_queries; ++q) {
    std::vector<Neighbor> all;
    for (const int64_t row : rows[q]) {
      const auto r = static_cast<size_t>(row);
      if (search.has_mask && (search.mask[r / 64] >> (r % 64) & 1U) == 0) continue;
      const size_t first = vectors.offsets.empty() ? r : static_cast<size_t>(vectors.offsets[r]);
      const size_t last = vectors.offsets.empty() ? r + 1 : static_cast<size_t>(vectors.offsets[r + 1]);
      std::vector<float> owned;
      for (size_t id = first; id < last; ++id) owned.push_back(plain_distance(vectors, search, q, id));
      if (owned.empty()) continue;
      std::sort(owned.begin(), owned.end());
      owned.resize(std::min(owned.size(), search.best_of));
      double sum = 0;
      for (const float distance : owned) sum += distance;
      const auto mean = static_cast<float>(sum / static_cast<double>(owned.size()));
      all.push_back({mean + (search.bias.empty() ? 0.0F : search.bias[q * vectors.n_rows + r]), row});
    }
    std::sort(all.begin(), all.end(), nearer);
    std::map<int32_t, size_t> seen;
    std::vector<Neighbor> kept;
    for (const Neighbor& neighbor : all) {
      if (kept.size() == search.k) break;
      const int32_t tag = search.crowding.cap == 0 ? -1 : search.crowding.tags[static_cast<size_t>(neighbor.row)];
      if (tag < 0 || ++seen[tag] <= search.crowding.cap) kept.push_back(neighbor);
    }
    write_sorted(kept, std::span(answer.rows).subspan(q * search.k, search.k),
                 std::span(answer.distances).subspan(q * search.k, search.k));
  }
  return answer;
}

// The same rows where distances are exact; for cosine the same distances up to rounding.
void check_same(const Answer& got, const Answer& wanted, Metric metric) {
  for (size_t i = 0; i < wanted.rows.size(); ++i) {
    CHECK((got.rows[i] == -1) == (wanted.rows[i] == -1));
    if (wanted.rows[i] == -1) {
      CHECK(std::isinf(got.distances[i]));
    } else if (metric == Metric::cosine) {
      CHECK(std::abs(got.distances[i] - wanted.distances[i]) < 1e-5F);
    } else {
      CHECK(got.rows[i] == wanted.rows[i]);
      CHECK(got.distances[i] == wanted.distances[i]);
    }
  }
}

template <class T>
void test_search(size_t dim, size_t n_vectors, size_t n_rows, size_t n_queries, size_t k, Metric metric) {
  const bool is_grouped = n_rows != n_vectors;
  const auto values = draw_values<T>(n_vectors * dim);
  const auto queries = draw_values<float>(n_queries * dim);
  const auto bias = draw_values<float>(n_queries * n_rows);
  const auto tags = draw_values<int32_t>(n_rows, -1, 3);
  std::vector<float> scales(n_vectors);
  for (float& scale : scales) scale = std::ldexp(1.0F, draw(-2, 1));
  std::vector<int64_t> offsets;
  if (is_grouped) {
    offsets.assign(n_rows + 1, 0);
    for (int64_t& offset : offsets) offset = draw(0, static_cast<int>(n_vectors));
    std::sort(offsets.begin(), offsets.end());
    offsets.front() = 0;
    offsets.back() = static_cast<int64_t>(n_vectors);
  }
  std::vector<uint64_t> mask(words_for(n_rows));
  for (uint64_t& word : mask)
    word = draw(0, 2) == 0 ? 0 : (uint64_t{generator()} << 32 | generator());  // junk in the tail
  Vectors<T> vectors{values, n_vectors, n_rows, dim, {}, offsets};
  if (sizeof(T) == 1) vectors.scales = scales;
  std::vector<std::vector<int64_t>> every(n_queries);
  for (auto& rows : every) {
    for (size_t r = 0; r < n_rows; ++r) rows.push_back(static_cast<int64_t>(r));
  }
  const size_t m = n_rows + 3;
  std::vector<int64_t> candidates(n_queries * m, -1);
  std::vector<std::vector<int64_t>> listed(n_queries);
  for (size_t q = 0; q < n_queries && n_rows > 0; ++q) {
    for (size_t i = 0; i < m; ++i) {
      candidates[q * m + i] = draw(-1, static_cast<int>(n_rows) - 1);
      if (candidates[q * m + i] >= 0) listed[q].push_back(candidates[q * m + i]);
    }
    std::sort(listed[q].begin(), listed[q].end());
    listed[q].erase(std::unique(listed[q].begin(), listed[q].end()), listed[q].end());
  }
  for (const bool has_mask : {false, true}) {
    for (const size_t cap : {0, 1, 2}) {
      for (const size_t best_of : {1, 2, 1000}) {
        if (!is_grouped && best_of != 1) continue;
        Search search{queries, n_queries, k, metric};
        search.best_of = best_of;
        search.has_mask = has_mask;
        search.mask = mask;
        if (cap != 1) search.bias = bias;
        search.crowding = {tags, cap};
        Answer got(n_queries, k);
        scan(vectors, search, got.view());
        check_same(got, plain_search(vectors, search, every), metric);
        Answer rescored(n_queries, k);
        rescore(vectors, search, candidates, rescored.view());
        check_same(rescored, plain_search(vectors, search, listed), metric);
      }
    }
  }
}

void test_searches() {
  for (const Metric metric : {Metric::ip, Metric::cosine, Metric::l2}) {
    for (size_t dim = 1; dim <= 70; ++dim) {
      test_search<float>(dim, 11, 11, 4, 5, metric);
      test_search<int8_t>(dim, 11, 11, 4, 5, metric);
    }
    for (const size_t n : {0, 1, 63, 64, 65, 129}) {
      test_search<float>(19, n, n, 2, 200, metric);
      test_search<int8_t>(33, n, n / 3 + 1, 7, 3, metric);
    }
    test_search<float>(5, 40, 200, 1, 10, metric);
    test_search<float>(5, 40, 40, 0, 10, metric);
  }
  test_search<float>(3, 1100, 1100, 66, 9, Metric::l2);  // more than one chunk, more than one panel
  test_search<int8_t>(3, 5000, 3, 2, 4, Metric::ip);     // one row's vectors fill several chunks
}

void test_threads() {
  const size_t n = 3200;
  const size_t dim = 32;
  const auto values = draw_values<float>(n * dim, -1, 1);
  const auto queries = draw_values<float>(65 * dim, -1, 1);
  const auto tags = draw_values<int32_t>(n, -1, 9);
  std::vector<int64_t> candidates(65 * 2100);
  for (int64_t& row : candidates) row = draw(-1, static_cast<int>(n) - 1);
  const Vectors<float> vectors{values, n, n, dim, {}, {}};
  for (const size_t cap : {0, 2}) {
    std::vector<Answer> answers;
    for (const size_t n_threads : {1, 3}) {
      Search search{queries, 65, 12, Metric::ip};
      search.n_threads = n_threads;
      search.crowding = {tags, cap};
      answers.emplace_back(65, 12);
      scan(vectors, search, answers.back().view());
      answers.emplace_back(65, 12);
      rescore(vectors, search, candidates, answers.back().view());
    }
    for (size_t i = 2; i < answers.size(); ++i) CHECK(answers[i] == answers[i % 2]);
  }
}

void test_bad_search() {
  const auto values = draw_values<float>(8 * 4);
  const auto queries = draw_values<float>(4);
  const Search search{queries, 1, 3, Metric::ip};
  Answer answer(1, 3);
  for (const auto& offsets : {std::vector<int64_t>{0, 5, 2, 8}, {0, 2, 99, 8}, {0, -3, 2, 8}}) {
    const Vectors<float> vectors{values, 8, 3, 4, {}, offsets};
    CHECK(raises<std::invalid_argument>([&] { scan(vectors, search, answer.view()); }, "[scan] offsets gives row"));
  }
  const Vectors<float> vectors{values, 8, 8, 4, {}, {}};
  for (const int64_t row : {int64_t{-2}, int64_t{8}, std::numeric_limits<int64_t>::max()}) {
    const std::vector<int64_t> candidates{0, row};
    CHECK(raises<std::out_of_range>([&] { rescore(vectors, search, candidates, answer.view()); },
                                    "[rescore] candidates holds " + std::to_string(row)));
  }
}

void test_not_finite() {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> values{1, 2, 3, 4};
  const std::vector<float> queries{1};
  const std::vector<float> bias{nan, inf, 0, nan};
  const Vectors<float> vectors{values, 4, 4, 1, {}, {}};
  Search search{queries, 1, 3, Metric::ip};
  search.bias = bias;
  Answer answer(1, 3);
  scan(vectors, search, answer.view());
  CHECK((answer.rows == std::vector<int64_t>{2, -1, -1}));
  const std::vector<int32_t> tags{0, 0, 0, 0};
  search.crowding = {tags, 1};
  scan(vectors, search, answer.view());
  CHECK((answer.rows == std::vector<int64_t>{2, -1, -1}));
}

void test_merge() {
  const std::vector<int64_t> rows{4, 2, -1, /* query 1 */ 0, 1, 2, /* shard 1 */ 2, 7, 9, /* query 1 */ -1, -1, -1};
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> distances{1, 3, inf, 5, 5, 6, 2, 3, 3, inf, inf, inf};
  Answer answer(2, 4);
  merge(rows, distances, 2, 2, 4, {}, answer.view());
  CHECK((answer.rows == std::vector<int64_t>{4, 2, 7, 9, 0, 1, 2, -1}));
  CHECK((answer.distances == std::vector<float>{1, 2, 3, 3, 5, 5, 6, inf}));
  const std::vector<int32_t> tags{5, 5, 5, -1, 5, 0, 0, 6, 0, 6};
  merge(rows, distances, 2, 2, 4, {tags, 1}, answer.view());
  CHECK((answer.rows == std::vector<int64_t>{4, 7, -1, -1, 0, -1, -1, -1}));
  const std::vector<int64_t> far{10};
  const std::vector<float> near{0};
  CHECK(
      raises<std::out_of_range>([&] { merge(far, near, 1, 1, 4, {tags, 1}, answer.view()); }, "[merge] rows holds 10"));
  merge({}, {}, 0, 2, 4, {}, answer.view());
  CHECK(answer.rows == std::vector<int64_t>(8, -1));
}

template <class T>
void test_compare(size_t n) {
  auto values = draw_values<T>(n, -2, 2);
  if constexpr (!std::is_same_v<T, int64_t>) {
    for (size_t i = 0; i < n; i += 5) values[i] = std::numeric_limits<T>::quiet_NaN();
  } else {
    for (size_t i = 0; i < n; i += 5) values[i] = std::numeric_limits<T>::min() + draw(0, 1);
  }
  const T value = 1;
  const std::function<bool(T)> holds[] = {[&](T x) { return x < value; },  [&](T x) { return x <= value; },
                                          [&](T x) { return x == value; }, [&](T x) { return x >= value; },
                                          [&](T x) { return x > value; },  [&](T x) { return x < value || x > value; }};
  for (size_t op = 0; op < n_operators; ++op) {
    std::vector<uint64_t> bitmap(words_for(n), 0xFFFF0FFFFFFFFFFFU);
    const std::vector<uint64_t> before = bitmap;
    compare<T>(bitmap, values, static_cast<Operator>(op), value);
    for (size_t r = 0; r < bitmap.size() * 64; ++r) {
      const bool was_set = (before[r / 64] >> (r % 64) & 1U) != 0;
      const bool is_set = (bitmap[r / 64] >> (r % 64) & 1U) != 0;
      CHECK(is_set == (r < n && was_set && holds[op](values[r])));
    }
  }
}

void test_bitmaps() {
  for (const size_t n : {0, 1, 63, 64, 65, 128, 1000}) {
    std::vector<uint64_t> bitmap(words_for(n));
    fill(bitmap, n);
    CHECK(count(bitmap, n) == n);
    if (n > 0) CHECK((bitmap.back() & ~live_bits(bitmap.size() - 1, n)) == 0);
    for (uint64_t& word : bitmap) word = ~uint64_t{0};
    CHECK(count(bitmap, n) == n);
    std::vector<int64_t> rows(n);
    rows_of(bitmap, n, rows);
    for (size_t r = 0; r < n; ++r) CHECK(rows[r] == static_cast<int64_t>(r));
    clear_rows<int64_t>(bitmap, rows);
    CHECK(count(bitmap, n) == 0);
    const std::vector<int32_t> beyond{0, static_cast<int32_t>(bitmap.size() * 64)};
    CHECK(raises<std::out_of_range>([&] { set_rows<int32_t>(bitmap, beyond); }, "[set_rows] rows holds"));
    CHECK(count(bitmap, n) == 0);
    const std::vector<int64_t> negative{-1};
    CHECK(raises<std::out_of_range>([&] { clear_rows<int64_t>(bitmap, negative); }, "[clear_rows] rows holds -1"));
    test_compare<int64_t>(n);
    test_compare<float>(n);
    test_compare<double>(n);
  }
}

void test_sparse() {
  const std::vector<int64_t> offsets{0, 2, 2, 5};
  const std::vector<int32_t> rows{0, 3, 1, 3, 3};
  const std::vector<float> weights{1, 2, 3, 4, 5};
  const std::vector<int64_t> terms{2, 0, 1};
  const std::vector<float> term_weights{10, 1, 7};
  std::vector<float> scores(4);
  sparse_scores({offsets, rows, weights}, terms, term_weights, scores);
  CHECK((scores == std::vector<float>{1, 30, 0, 92}));
  std::vector<float> few(3);
  CHECK(raises<std::out_of_range>([&] { sparse_scores({offsets, rows, weights}, terms, term_weights, few); },
                                  "[sparse_scores] rows holds 3"));
  const std::vector<int64_t> unknown{3};
  CHECK(raises<std::out_of_range>([&] { sparse_scores({offsets, rows, weights}, unknown, term_weights, scores); },
                                  "[sparse_scores] terms holds 3"));
  const std::vector<int64_t> falling{0, 3, 2, 9};
  CHECK(raises<std::invalid_argument>([&] { sparse_scores({falling, rows, weights}, terms, term_weights, scores); },
                                      "[sparse_scores] offsets gives term 2"));
}

void test_best_scores() {
  for (const size_t n : {0, 1, 63, 64, 65, 200}) {
    for (int turn = 0; turn < 50; ++turn) {
      const auto scores = draw_values<float>(n, -2, 4);
      std::vector<uint64_t> mask(words_for(n));
      for (uint64_t& word : mask) {
        for (size_t bit = 0; bit < word_bits; ++bit) word = word << 1 | static_cast<uint64_t>(draw(0, 1));
      }
      const bool has_mask = turn % 2 == 0;
      for (const size_t k : {size_t{1}, size_t{7}, n + 1}) {
        std::vector<int64_t> rows(k);
        std::vector<float> distances(k);
        const size_t n_found = best_scores(scores, has_mask ? ConstBitmap(mask) : ConstBitmap(), rows, distances);
        std::vector<Neighbor> expected;
        for (size_t row = 0; row < n; ++row) {
          const bool passes = !has_mask || (mask[row / 64] >> (row % 64) & 1) != 0;
          if (passes && scores[row] > 0) expected.push_back({-scores[row], static_cast<int64_t>(row)});
        }
        std::sort(expected.begin(), expected.end(), nearer);
        CHECK(n_found == std::min(k, expected.size()));
        for (size_t i = 0; i < k; ++i) {
          CHECK(rows[i] == (i < n_found ? expected[i].row : -1));
          CHECK(distances[i] == (i < n_found ? expected[i].distance : no_neighbor.distance));
        }
      }
    }
  }
}

uint32_t plain_crc32c(const uint8_t* data, size_t n) {
  uint32_t crc = 0xFFFFFFFFU;
  for (size_t i = 0; i < n; ++i) {
    crc ^= data[i];
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1U) != 0 ? 0x82F63B78U : 0U);
  }
  return ~crc;
}

void test_crc32c() {
  const char* digits = "123456789";
  std::vector<uint8_t> known(digits, digits + 9);
  std::vector<uint32_t> sum(1);
  crc32c(known, 100, sum);
  CHECK(sum[0] == 0xE3069283U);
  for (const size_t n : {0, 1, 7, 8, 9, 63, 64, 65, 500}) {
    const auto data = draw_values<uint8_t>(n, 0, 255);
    for (const size_t block : {1, 3, 8, 13, 64, 1000}) {
      std::vector<uint32_t> sums((n + block - 1) / block);
      crc32c(data, block, sums);
      for (size_t b = 0; b < sums.size(); ++b) {
        CHECK(sums[b] == plain_crc32c(data.data() + b * block, std::min(block, n - b * block)));
      }
    }
  }
}

}  // namespace

int main() {
  test_searches();
  test_threads();
  test_bad_search();
  test_not_finite();
  test_merge();
  test_bitmaps();
  test_sparse();
  test_best_scores();
  test_crc32c();
  return report();
}
