// The graph index against plain loops in double, over damaged memory and from many threads at once, built to run under
// sanitizers: every buffer has its exact size on the heap, so that one element too far is an error.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "bitmap.h"
#include "check.h"
#include "graph/index.h"
#include "graph/rotation.h"
#include "graph_case.h"
#include "simd.h"

namespace {

using namespace likewise;

std::mt19937 generator(11);

int draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
float draw_float() { return std::normal_distribution<float>()(generator); }

std::vector<float> draw_vectors(size_t n, size_t dim) {
  std::vector<float> values(n * dim);
  for (float& value : values) value = draw_float();
  return values;
}

// ---- kernels

bool is_same(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b)); }

void test_dots() {
  const Quantized& ours = simd().quantized;
  const Quantized& plain = scalar_simd().quantized;
  for (size_t dim = 64; dim <= 4096; dim += dim < 1024 ? 64 : 1024) {
    const size_t n = 37;
    const auto most = static_cast<int>(std::min<size_t>(32767, 2147483647 / (128 * dim)));
    std::vector<int8_t> codes(n * dim);
    std::vector<int16_t> query(dim);
    for (int8_t& code : codes) code = static_cast<int8_t>(draw(-128, 127));
    for (int16_t& step : query) step = static_cast<int16_t>(draw(-most, most));
    std::fill_n(codes.begin(), dim, int8_t{-128});  // the first row has the greatest sum that there is
    if (dim % 128 == 0) std::fill(query.begin(), query.end(), static_cast<int16_t>(-most));
    for (const size_t n_ids : {size_t{0}, size_t{1}, size_t{3}, n}) {
      std::vector<uint32_t> ids(n_ids);
      for (size_t i = 0; i < n_ids; ++i) ids[i] = i == 0 ? 0 : static_cast<uint32_t>(draw(0, n - 1));
      std::vector<int32_t> found(n_ids);
      std::vector<int32_t> wanted(n_ids);
      ours.dots(query.data(), codes.data(), dim, ids.data(), n_ids, found.data());
      plain.dots(query.data(), codes.data(), dim, ids.data(), n_ids, wanted.data());
      CHECK(found == wanted);
      for (size_t i = 0; i < n_ids; ++i) {
        int64_t sum = 0;
        for (size_t j = 0; j < dim; ++j) sum += int64_t{query[j]} * codes[ids[i] * dim + j];
        CHECK(found[i] == sum);
      }
    }
  }
}

void test_sign_bounds() {
  const Quantized& ours = simd().quantized;
  const Quantized& plain = scalar_simd().quantized;
  for (size_t n_words = 1; n_words <= 64; n_words += n_words < 16 ? 1 : 16) {
    const size_t n = 41;
    const size_t stride = (n_words * 8 + sizeof(SignFactors) + 31) / 32 * 32;
    std::vector<uint64_t> storage(n * stride / 8);  // aligned
    auto* records = reinterpret_cast<unsigned char*>(storage.data());
    for (size_t i = 0; i < n * stride; ++i) records[i] = static_cast<unsigned char>(draw(0, 255));
    for (size_t i = 0; i < n; ++i) {
      SignFactors factors{draw_float(), draw_float(), static_cast<float>(draw(0, static_cast<int>(64 * n_words)))};
      if (i % 10 == 7) factors.slope = std::numeric_limits<float>::infinity();
      if (i % 10 == 8) factors.shift = std::numeric_limits<float>::quiet_NaN();
      std::memcpy(records + i * stride + n_words * 8, &factors, sizeof(factors));
    }
    std::vector<uint64_t> planes(4 * n_words);
    for (uint64_t& word : planes) word = (static_cast<uint64_t>(generator()) << 32) | generator();
    const SignQuery query{planes.data(), n_words, draw_float(), draw_float(), draw_float(), draw_float()};
    std::vector<uint32_t> ids(n);
    std::iota(ids.begin(), ids.end(), 0U);
    std::shuffle(ids.begin(), ids.end(), generator);
    std::vector<float> found(n);
    std::vector<float> wanted(n);
    ours.sign_bounds(query, records, stride, ids.data(), n, found.data());
    plain.sign_bounds(query, records, stride, ids.data(), n, wanted.data());
    for (size_t i = 0; i < n; ++i) CHECK(is_same(found[i], wanted[i]));
  }
}

// A block of 32 links and a query, of random bytes and numbers.
void test_block_bounds() {
  const Quantized& ours = simd().quantized;
  const Quantized& plain = scalar_simd().quantized;
  for (size_t dim = 64; dim <= 4096; dim += dim < 512 ? 64 : 512) {
    const size_t n_pairs = dim / 8;
    std::vector<unsigned char> bits(block_rows * n_pairs);
    std::vector<uint8_t> tables(32 * n_pairs);
    for (unsigned char& byte : bits) byte = static_cast<unsigned char>(draw(0, 255));
    for (uint8_t& entry : tables) entry = static_cast<uint8_t>(dim == 4096 ? 127 : draw(0, 127));  // the greatest sum
    std::vector<float> factors = draw_vectors(2, block_rows);
    factors[3] = std::numeric_limits<float>::infinity();
    factors[block_rows + 5] = std::numeric_limits<float>::quiet_NaN();
    std::vector<unsigned char> block(factors.size() * sizeof(float) + bits.size());
    std::memcpy(block.data(), factors.data(), factors.size() * sizeof(float));
    std::memcpy(block.data() + factors.size() * sizeof(float), bits.data(), bits.size());
    const BlockQuery query{tables.data(), n_pairs, draw_float(), draw_float()};
    const float base = draw_float();
    const float reach = draw_float();
    std::vector<float> found(block_rows);
    std::vector<float> wanted(block_rows);
    ours.block_bounds(query, block.data(), base, reach, found.data());
    plain.block_bounds(query, block.data(), base, reach, wanted.data());
    for (size_t i = 0; i < block_rows; ++i) {
      CHECK(is_same(found[i], wanted[i]));
      int sum = 0;
      for (size_t pair = 0; pair < n_pairs; ++pair) {
        const unsigned char byte = bits[block_rows * pair + i];
        sum += tables[32 * pair + byte % 16] + tables[32 * pair + 16 + byte / 16];
      }
      const float signed_sum = query.step * static_cast<float>(sum) + (query.offset + reach);
      CHECK(is_same(found[i], base + factors[i] - factors[block_rows + i] * signed_sum));
    }
  }
}

// What the kernels make of a query and of a residual, against doubles.
void test_forms() {
  const Quantized& ours = simd().quantized;
  const Quantized& plain = scalar_simd().quantized;
  for (size_t dim = 64; dim <= 4096; dim *= 2) {
    std::vector<float> x = draw_vectors(1, dim);
    const std::vector<float> centre = draw_vectors(1, dim);
    if (dim == 128) std::fill(x.begin(), x.end(), 0.0F);
    if (dim == 256) std::fill(x.begin(), x.end(), -3.0F);
    struct Forms {
      explicit Forms(size_t dim) : steps(dim), planes(dim / 16), tables(4 * dim) {
        forms.steps = steps.data();
        forms.planes = planes.data();
        forms.tables = tables.data();
      }
      std::vector<int16_t> steps;
      std::vector<uint64_t> planes;
      std::vector<uint8_t> tables;
      QueryForms forms{};
    };
    Forms found(dim);
    Forms wanted(dim);
    for (const auto& [kernels, made] : {std::pair{&ours, &found}, std::pair{&plain, &wanted}}) {
      kernels->query_steps(x.data(), centre.data(), dim, 16000, made->forms);
      kernels->query_planes(x.data(), dim, made->forms);
      kernels->query_tables(x.data(), dim, made->forms);
    }
    CHECK(found.steps == wanted.steps && found.planes == wanted.planes && found.tables == wanted.tables);
    const QueryForms& forms = found.forms;
    CHECK(is_same(forms.step, wanted.forms.step) && is_same(forms.plane_step, wanted.forms.plane_step) &&
          is_same(forms.table_step, wanted.forms.table_step) && forms.table_offset == wanted.forms.table_offset &&
          is_same(forms.sum, wanted.forms.sum) && is_same(forms.square, wanted.forms.square) &&
          is_same(forms.centre_dot, wanted.forms.centre_dot) && is_same(forms.lowest, wanted.forms.lowest));
    std::vector<unsigned char> signs(dim / 8);
    for (unsigned char& byte : signs) byte = static_cast<unsigned char>(draw(0, 255));
    double signed_sum = 0;
    double square = 0;
    double centre_dot = 0;
    int looked_up = 0;
    for (size_t i = 0; i < dim; ++i) {
      CHECK(std::fabs(forms.step * static_cast<float>(found.steps[i]) - x[i]) <= 0.51F * forms.step + 1e-6F);
      unsigned number = 0;
      for (size_t plane = 0; plane < 4; ++plane) {
        number |= static_cast<unsigned>(found.planes[i / 64 * 4 + plane] >> (i % 64) & 1) << plane;
      }
      const float held = forms.lowest + forms.plane_step * static_cast<float>(number);
      CHECK(std::fabs(held - x[i]) <= 0.51F * forms.plane_step + 1e-6F);
      signed_sum += (signs[i / 8] >> (i % 8) & 1) != 0 ? x[i] : -x[i];
      square += double{x[i]} * x[i];
      centre_dot += double{x[i]} * centre[i];
      if (i % 4 != 0) continue;
      const unsigned nibble = signs[i / 8] >> (i % 8) & 15;
      const int entry = found.tables[4 * i + nibble];
      CHECK(entry <= 127);
      looked_up += entry;
    }
    CHECK(std::fabs(forms.square - square) <= 1e-5 * square + 1e-6);
    CHECK(std::fabs(forms.centre_dot - centre_dot) <= 1e-4 * static_cast<double>(dim));
    const float held = forms.table_step * static_cast<float>(2 * looked_up + forms.table_offset);
    CHECK(std::fabs(held - signed_sum) <= 0.5 * forms.table_step * static_cast<float>(dim) + 1e-3);

    std::vector<int8_t> codes(dim);
    std::vector<int8_t> fine(dim);
    for (int8_t& code : codes) code = static_cast<int8_t>(draw(-128, 127));
    for (int8_t& code : fine) code = static_cast<int8_t>(draw(-128, 127));
    for (const size_t n_signs : {dim, dim / 2, size_t{8}}) {
      std::vector<unsigned char> bits[2] = {std::vector<unsigned char>(block_rows * n_signs / 8),
                                            std::vector<unsigned char>(block_rows * n_signs / 8)};
      ResidualSums sums[2];
      ours.residual(codes.data(), fine.data(), 0.02F, 0.0001F, x.data(), dim, n_signs, bits[0].data(), sums[0]);
      plain.residual(codes.data(), fine.data(), 0.02F, 0.0001F, x.data(), dim, n_signs, bits[1].data(), sums[1]);
      CHECK(bits[0] == bits[1] && std::memcmp(&sums[0], &sums[1], sizeof(sums[0])) == 0);
      double residual_square = 0;
      double cross = 0;
      double magnitude = 0;
      double signed_from = 0;
      for (size_t i = 0; i < dim; ++i) {
        const float r = (static_cast<float>(codes[i]) * 0.02F + static_cast<float>(fine[i]) * 0.0001F) - x[i];
        residual_square += double{r} * r;
        cross += double{r} * x[i];
        if (i >= n_signs) continue;
        const bool is_up = (bits[0][block_rows * (i / 8)] >> (i % 8) & 1) != 0;
        CHECK(is_up == !std::signbit(r));
        magnitude += std::fabs(r);
        signed_from += is_up ? x[i] : -x[i];
      }
      CHECK(std::fabs(sums[0].square - residual_square) <= 1e-4 * residual_square);
      CHECK(std::fabs(sums[0].cross - cross) <= 1e-3 * static_cast<double>(dim));
      CHECK(std::fabs(sums[0].sum - magnitude) <= 1e-4 * magnitude);
      CHECK(std::fabs(sums[0].signed_sum - signed_from) <= 1e-4 * static_cast<double>(dim));
    }
  }
}

// Against the definition: every coordinate is a sum of all with signs. The order of the coordinates is the kernel's
// own.
void test_hadamard() {
  for (size_t n = 64; n <= 4096; n *= 2) {
    const std::vector<float> x = draw_vectors(1, n);
    const std::vector<float> by = draw_vectors(1, n);
    std::vector<float> used[2] = {x, x};
    std::vector<float> out[2] = {std::vector<float>(n), std::vector<float>(n)};
    simd().quantized.hadamard(used[0].data(), by.data(), out[0].data(), n);
    scalar_simd().quantized.hadamard(used[1].data(), by.data(), out[1].data(), n);
    CHECK(std::memcmp(out[0].data(), out[1].data(), n * sizeof(float)) == 0);
    for (size_t place = 0; place < n; place += n / 64) {
      const size_t coordinate = place % (n / 8) * 8 + place / (n / 8);
      double sum = 0;
      for (size_t i = 0; i < n; ++i) {
        sum += (std::popcount(i & coordinate) % 2 == 0 ? 1 : -1) * static_cast<double>(x[i]) * by[i];
      }
      CHECK(std::fabs(out[0][place] - sum) < 1e-3);
    }
    std::vector<float> mixed[2] = {x, x};
    simd().quantized.mix_halves(mixed[0].data(), n);
    scalar_simd().quantized.mix_halves(mixed[1].data(), n);
    CHECK(mixed[0] == mixed[1]);
    simd().quantized.mix_halves(mixed[0].data(), n);
    for (size_t i = 0; i < n; ++i) CHECK(std::fabs(mixed[0][i] - x[i]) < 1e-5);
  }
}

void test_rotation() {
  for (const size_t dim : {1, 2, 63, 64, 65, 100, 128, 129, 300, 1000, 4095, 4096}) {
    const Rotation rotation(dim, 3);
    const std::vector<float> vector = draw_vectors(1, dim);
    std::vector<float> rotated(rotation.padded_dim());
    std::vector<float> back(dim);
    rotation.apply(vector.data(), rotated.data());
    rotation.undo(rotated.data(), back.data());
    double length = 0;
    double rotated_length = 0;
    for (const float value : rotated) rotated_length += double{value} * value;
    for (size_t i = 0; i < dim; ++i) {
      length += double{vector[i]} * vector[i];
      CHECK(std::fabs(vector[i] - back[i]) < 1e-4);
    }
    CHECK(std::fabs(rotated_length / length - 1) < 1e-4);
  }
}

// ---- the index

struct Answer {
  Answer(size_t n_queries, size_t k) : rows(n_queries * k), distances(n_queries * k) {}
  bool operator==(const Answer&) const = default;
  std::vector<int64_t> rows;
  std::vector<float> distances;
};

Answer ask(const GraphIndex& index, const std::vector<float>& queries, size_t k, bool is_exact, size_t n_threads = 1,
           const std::vector<uint64_t>* keep = nullptr, float spread = 1.3F, float margin = 2) {
  const size_t n_queries = queries.size() / index.dim();
  Answer answer(n_queries, k);
  std::vector<uint8_t> plans(n_queries);
  std::vector<int32_t> n_expanded(n_queries);
  GraphSearch search{queries, n_queries, k, spread, margin};
  search.is_exact = is_exact;
  search.n_threads = n_threads;
  if (keep != nullptr) {
    search.keep = keep->data();
    search.n_keep_words = keep->size();
  }
  index.search(search, {answer.rows, answer.distances}, {plans, n_expanded});
  return answer;
}

double plain_distance(const float* a, const float* b, size_t dim, Metric metric) {
  double dot = 0;
  double squares = 0;
  double query_square = 0;
  double gap = 0;
  for (size_t i = 0; i < dim; ++i) {
    dot += double{a[i]} * b[i];
    squares += double{b[i]} * b[i];
    query_square += double{a[i]} * a[i];
    gap += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  }
  if (metric == Metric::ip) return -dot;
  if (metric == Metric::l2) return gap;
  const double norms = std::sqrt(squares * query_square);
  return 1 - (norms > 0 ? dot / norms : 0);
}

// Answers are the nearest of what lives, to the precision of 16 bits, and however few they are they are all there.
void check_answers(const GraphIndex& index, const std::vector<float>& vectors, const std::vector<bool>& lives,
                   const std::vector<float>& queries, size_t k) {
  const size_t dim = index.dim();
  const auto n_live = static_cast<size_t>(std::count(lives.begin(), lives.end(), true));
  CHECK(index.n_live() == n_live);
  CHECK(index.size() == lives.size());
  const Answer exact = ask(index, queries, k, true);
  CHECK(ask(index, queries, k, true, 3) == exact);
  const Answer quick = ask(index, queries, k, false);
  CHECK(ask(index, queries, k, false, 3) == quick);
  for (size_t q = 0; q < queries.size() / dim; ++q) {
    const float* query = queries.data() + q * dim;
    std::vector<double> wanted;
    for (size_t row = 0; row < lives.size(); ++row) {
      if (lives[row]) wanted.push_back(plain_distance(query, vectors.data() + row * dim, dim, index.metric()));
    }
    std::sort(wanted.begin(), wanted.end());
    for (const Answer* answer : {&exact, &quick}) {
      for (size_t i = 0; i < k; ++i) {
        const int64_t row = answer->rows[q * k + i];
        const float distance = answer->distances[q * k + i];
        CHECK((row >= 0) == (i < n_live));
        if (row < 0) {
          CHECK(distance == std::numeric_limits<float>::infinity());
          continue;
        }
        CHECK(lives[static_cast<size_t>(row)]);
        const double own = plain_distance(query, vectors.data() + static_cast<size_t>(row) * dim, dim, index.metric());
        const double tolerance = 2e-4 * (1 + 3 * static_cast<double>(dim));
        CHECK(std::fabs(own - distance) < tolerance);
        if (answer == &exact) CHECK(std::fabs(wanted[i] - distance) < tolerance);
      }
    }
  }
}

// Every block is the one of its row's links, as they are now, and bounds their distances from below.
void check_blocks(const GraphIndex& index, const std::vector<float>& queries) {
  const GraphIndex::State state = index.state();
  CHECK(state.blocks.size() == index.size() * index.block_stride());
  if (!index.is_packed()) return;
  const size_t dim = index.dim();
  const size_t degree = index.degree();
  QuantizedRows rows(dim, index.metric(), 5);
  rows.borrow(state.rows);
  LinkBlocks blocks(index.padded_dim(), degree);
  CHECK(blocks.stride() == index.block_stride());
  std::vector<float> gap;
  std::vector<unsigned char> wanted(blocks.stride());
  for (size_t row = 0; row < index.size(); ++row) {
    blocks.encode(rows, static_cast<uint32_t>(row), state.neighbors.data() + row * degree, gap, wanted.data());
    CHECK(std::memcmp(wanted.data(), state.blocks.data() + row * blocks.stride(), blocks.stride()) == 0);
  }
  blocks.borrow(state.blocks);
  PreparedQuery query;
  std::vector<float> bounds(blocks.n_bounds());
  for (size_t q = 0; q < queries.size() / dim; ++q) {
    rows.prepare(queries.data() + q * dim, query);
    rows.add_tables(query, n_link_signs(rows.padded_dim()));
    query.margin = 8;  // so many deviations that chance is left out
    for (size_t row = 0; row < index.size(); ++row) {
      const auto id = static_cast<uint32_t>(row);
      int32_t dot = 0;
      float distance = 0;
      rows.distances(query, &id, 1, &dot, &distance);
      blocks.bounds(query, id, distance, bounds.data());
      for (size_t slot = 0; slot < blocks.n_bounds(); ++slot) {
        const uint32_t link = slot < degree ? state.neighbors[row * degree + slot] : no_row;
        if (link >= index.size()) {
          CHECK(bounds[slot] == std::numeric_limits<float>::infinity());
          continue;
        }
        rows.distances(query, &link, 1, &dot, &distance);
        // A query of few dimensions may lie along a residual, where the signs see nothing: no bound is certain.
        if (dim >= 63) CHECK(bounds[slot] <= distance + rows.error(query, link) + rows.error(query, id) + 1e-3F);
      }
    }
  }
}

void test_histories() {
  for (const size_t dim : {1, 63, 65, 130, 450}) {  // 450: blocks of a part of the signs
    for (const Metric metric : {Metric::ip, Metric::cosine, Metric::l2}) {
      for (const size_t n : {0, 2, 70}) {
        const bool is_packed = n != 2 && dim != 63;
        const size_t degree = dim == 130 ? 40 : 8;
        GraphIndex index(dim, metric, 5, {degree, 2 * degree, 1}, is_packed);
        std::vector<float> vectors = draw_vectors(n, dim);
        if (n > 9) std::fill_n(vectors.begin(), dim, 0.0F);
        if (n > 9) std::copy_n(vectors.data() + dim, dim, vectors.data() + 2 * dim);
        index.build(vectors.data(), n, 2, {});
        CHECK(index.n_unreachable() == 0);
        std::vector<bool> lives(n, true);
        const std::vector<float> queries = draw_vectors(3, dim);
        check_answers(index, vectors, lives, queries, 5);

        std::vector<int64_t> gone;
        for (size_t row = 0; row < n; row += 3) gone.push_back(static_cast<int64_t>(row));
        CHECK(index.remove(gone) == gone.size());
        CHECK(index.remove(gone) == 0);
        for (const int64_t row : gone) lives[static_cast<size_t>(row)] = false;
        const std::vector<float> more = draw_vectors(33, dim);
        CHECK(index.add(more.data(), 33, 2) == n);
        vectors.insert(vectors.end(), more.begin(), more.end());
        lives.resize(n + 33, true);
        check_answers(index, vectors, lives, queries, 40);
        check_blocks(index, queries);

        std::vector<int64_t> old_rows;
        const std::unique_ptr<GraphIndex> compacted = index.compacted(2, old_rows);
        std::vector<float> left;
        for (const int64_t row : old_rows) {
          CHECK(lives[static_cast<size_t>(row)]);
          const float* vector = vectors.data() + static_cast<size_t>(row) * dim;
          left.insert(left.end(), vector, vector + dim);
        }
        CHECK(compacted->n_unreachable() == 0);
        check_answers(*compacted, left, std::vector<bool>(old_rows.size(), true), queries, 40);
        check_blocks(*compacted, queries);
      }
    }
  }
}

// Large enough to be walked and measured.
std::unique_ptr<GraphIndex> walked_index(size_t n, size_t dim, Metric metric, const std::vector<float>& vectors,
                                         bool is_packed = true) {
  auto index = std::make_unique<GraphIndex>(dim, metric, 7, LinkOptions{8, 16, 1}, is_packed);
  index->build(vectors.data(), n, 2, {});
  return index;
}

void test_walks() {
  constexpr size_t n = 1800;
  constexpr size_t dim = 16;
  const std::vector<float> vectors = draw_vectors(n, dim);
  const std::vector<float> queries = draw_vectors(12, dim);
  const auto index = walked_index(n, dim, Metric::cosine, vectors);
  CHECK(!index->table().empty());
  CHECK(index->n_unreachable() == 0);
  std::vector<uint8_t> plans(12);
  std::vector<int32_t> n_expanded(12);
  Answer answer(12, 10);
  GraphSearch search{queries, 12, 10, index->table().front().spread, 1};
  search.is_walk = true;
  index->search(search, {answer.rows, answer.distances}, {plans, n_expanded});
  for (size_t q = 0; q < 12; ++q) {
    CHECK(plans[q] == static_cast<uint8_t>(Plan::graph));
    CHECK(n_expanded[q] > 0);
  }
  search.spread = std::numeric_limits<float>::quiet_NaN();  // of a damaged file
  index->search(search, {answer.rows, answer.distances}, {});
  for (const int64_t row : answer.rows) CHECK(row < static_cast<int64_t>(n));
  std::vector<uint64_t> keep(words_for(n), 0x5555555555555555);
  for (const size_t k : {1, 10, 700}) {
    for (const float spread : {1.0F, 1.1F, 1e30F}) {
      const Answer filtered = ask(*index, queries, k, false, 1, &keep, spread);
      for (const int64_t row : filtered.rows) CHECK(row >= 0 && row % 2 == 0);
      CHECK(ask(*index, queries, k, false, 2, &keep, spread) == filtered);
    }
  }
  keep.resize(3);  // rows beyond are not kept
  for (const int64_t row : ask(*index, queries, 20, false, 1, &keep).rows) CHECK(row >= 0 && row < 192);
}

// ---- damage

void test_damage() {
  constexpr size_t n_rounds = 50;
  for (const Metric metric : {Metric::ip, Metric::cosine, Metric::l2}) {
    for (const size_t n : {90, 1100}) {
      const size_t dim = n == 90 ? 70 : 8;
      const std::vector<float> vectors = draw_vectors(n, dim);
      const GraphCase whole(*walked_index(n, dim, metric, vectors));
      const std::vector<float> queries = draw_vectors(2, dim);
      for (size_t round = 0; round < n_rounds / (n == 90 ? 1 : 5); ++round) {
        GraphCase damaged = whole;
        const size_t n_arrays = static_cast<size_t>(draw(1, 3));
        for (size_t i = 0; i < n_arrays; ++i) {
          const std::span<unsigned char> bytes = damaged.bytes(static_cast<size_t>(draw(0, GraphCase::n_arrays - 1)));
          if (bytes.empty()) continue;
          const int n_hits = draw(0, 3) == 0 ? static_cast<int>(bytes.size()) : draw(1, 40);
          for (int hit = 0; hit < n_hits; ++hit) {
            bytes[static_cast<size_t>(draw(0, static_cast<int>(bytes.size()) - 1))] =
                static_cast<unsigned char>(draw(0, 3) == 0 ? 0xff : draw(0, 255));
          }
        }
        damaged.exercise(queries, static_cast<uint32_t>(generator()));
        ++n_checks;
      }
    }
  }
}

// ---- threads

void test_threads() {
  constexpr size_t n = 1300;
  constexpr size_t n_more = 300;
  constexpr size_t dim = 8;
  constexpr int n_turns = 12;
  const std::vector<float> vectors = draw_vectors(n, dim);
  const std::vector<float> more = draw_vectors(n_more, dim);
  const std::vector<float> queries = draw_vectors(9, dim);
  const auto index = walked_index(n, dim, Metric::l2, vectors);
  std::vector<std::thread> threads;
  for (int searcher = 0; searcher < 2; ++searcher) {
    threads.emplace_back([&, searcher] {
      const std::vector<uint64_t> keep(words_for(n), 0x7777777777777777);
      for (int turn = 0; turn < n_turns; ++turn) {
        const Answer answer = ask(*index, queries, 10, turn % 5 == 0, 1 + static_cast<size_t>(searcher),
                                  turn % 3 == 0 ? &keep : nullptr, turn % 2 == 0 ? 1.0F : 1e30F);
        for (const int64_t row : answer.rows) CHECK(row >= 0 && row < static_cast<int64_t>(n + n_more));
        CHECK(index->n_live() <= n + n_more);
        (void)index->spread_for_recall(0.9F);
        (void)index->owned_bytes();
        std::this_thread::yield();
      }
    });
  }
  threads.emplace_back([&] {
    for (size_t i = 0; i < n_more; i += 30) {
      CHECK(index->add(more.data() + i * dim, 30, 1 + i / 30 % 2) == n + i);
      (void)index->n_unreachable();
    }
  });
  threads.emplace_back([&] {
    for (int64_t row = 0; row < 400; row += 20) {
      std::vector<int64_t> gone(20);
      std::iota(gone.begin(), gone.end(), row);
      CHECK(index->remove(gone) == 20);
    }
  });
  threads.emplace_back([&] {
    for (int turn = 0; turn < 3; ++turn) {
      std::vector<int64_t> old_rows;
      const auto compacted = index->compacted(2, old_rows);
      CHECK(compacted->n_live() == old_rows.size());
      CHECK(compacted->n_unreachable() == 0);
      std::vector<float> vector(dim);
      index->restore(0, vector.data());
    }
  });
  for (std::thread& thread : threads) thread.join();
  CHECK(index->n_live() == n + n_more - 400);
  CHECK(index->size() == n + n_more);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "all";
  if (only != "threads") {
    test_dots();
    test_sign_bounds();
    test_block_bounds();
    test_forms();
    test_hadamard();
    test_rotation();
  }
  if (only == "all") {
    test_histories();
    test_walks();
    test_damage();
  }
  if (only != "kernels") test_threads();
  return report();
}
