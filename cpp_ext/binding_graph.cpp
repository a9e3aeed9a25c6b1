// The graph index in Python. matching.GraphIndex checks arguments and documents; here they are borrowed and the GIL is
// released for the whole call.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "binding.h"
#include "graph/index.h"

namespace likewise {
namespace {

constexpr float largest_number = 1e15F;
constexpr size_t quick_numbers = 1'000'000;  // that are looked at without releasing the GIL

using Rows = Matrix<float, 2>;

Metric metric_of(const std::string& name) {
  if (name == "ip") return Metric::ip;
  if (name == "cosine") return Metric::cosine;
  if (name == "l2") return Metric::l2;
  wrong_value("[graph] metric is '" + name + "'; expected ip, cosine or l2");
}

const char* name_of(Metric metric) {
  switch (metric) {
    case Metric::ip:
      return "ip";
    case Metric::cosine:
      return "cosine";
    case Metric::l2:
      return "l2";
  }
  return "";
}

// The first row with a number that is not finite or too large, or -1.
int64_t first_unfit_row(const float* values, size_t n, size_t dim) {
  for (size_t row = 0; row < n; ++row) {
    bool is_fit = true;
    for (size_t i = 0; i < dim; ++i) is_fit &= std::fabs(values[row * dim + i]) <= largest_number;  // false for NaN
    if (!is_fit) return static_cast<int64_t>(row);
  }
  return -1;
}

Progress progress_of(const nb::object& callback) {
  return [callback](size_t done) {
    const nb::gil_scoped_acquire held;
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (!callback.is_none()) callback(done);
  };
}

std::unique_ptr<GraphIndex> build(const Rows& vectors, const std::string& metric, uint64_t seed, size_t degree,
                                  size_t build_beam, float occlusion, bool packed,
                                  const std::optional<std::pair<float, float>>& costs, size_t threads,
                                  const nb::object& progress, const std::optional<Matrix<int32_t, 2>>& links,
                                  const std::optional<Matrix<int64_t, 1>>& held_out) {
  auto index = std::make_unique<GraphIndex>(vectors.shape(1), metric_of(metric), seed,
                                            LinkOptions{degree, build_beam, occlusion}, packed);
  if (costs) index->set_costs({costs->first, costs->second});
  const Progress report = progress_of(progress);
  const nb::gil_scoped_release released;
  if (links) {
    index->build_from(vectors.data(), vectors.shape(0), links->data(), links->shape(1), threads, report);
  } else {
    std::span<const int64_t> apart;
    if (held_out) apart = {held_out->data(), held_out->size()};
    index->build(vectors.data(), vectors.shape(0), threads, report, apart);
  }
  return index;
}

int64_t unfit(const Rows& vectors) {
  const nb::gil_scoped_release released;
  return first_unfit_row(vectors.data(), vectors.shape(0), vectors.shape(1));
}

nb::object search(const GraphIndex& index, const Rows& queries, size_t k, float spread, float margin, bool exact,
                  const std::optional<Matrix<uint64_t, 1>>& keep, size_t threads, bool trace) {
  const size_t n = queries.shape(0);
  auto rows = uninitialised<int64_t>(n * k);
  auto distances = uninitialised<float>(n * k);
  std::unique_ptr<uint8_t[]> plans;
  std::unique_ptr<int32_t[]> expanded;
  GraphTrace traced;
  if (trace) {
    plans = uninitialised<uint8_t>(n);
    expanded = uninitialised<int32_t>(n);
    traced = {{plans.get(), n}, {expanded.get(), n}};
  }
  {
    const nb::gil_scoped_release released;
    GraphSearch request{{queries.data(), queries.size()}, n, k, spread, margin};
    request.is_exact = exact;
    request.keep = keep ? keep->data() : nullptr;
    request.n_keep_words = keep ? keep->size() : 0;
    request.n_threads = threads;
    index.search(request, {{rows.get(), n * k}, {distances.get(), n * k}}, traced);
  }
  nb::object found_rows = owning(std::move(rows), {n, k});
  nb::object found_distances = owning(std::move(distances), {n, k});
  if (!trace) return nb::make_tuple(found_rows, found_distances);
  return nb::make_tuple(found_rows, found_distances, owning(std::move(plans), {n}), owning(std::move(expanded), {n}));
}

// An exact int between 1 and a limit, or 0.
size_t small_integer(nb::handle object, int64_t limit) {
  if (!PyLong_CheckExact(object.ptr())) return 0;
  int overflow = 0;
  const int64_t value = PyLong_AsLongLongAndOverflow(object.ptr(), &overflow);
  return overflow == 0 && value >= 1 && value <= limit ? static_cast<size_t>(value) : 0;
}

// The usual search, of arguments that need no conversion and hold what they should.
// None for anything else: the slow way knows what to say of it.
nb::object quick_search(const GraphIndex& index, nb::handle queries, nb::handle k, float spread, float margin,
                        nb::handle keep, nb::handle threads) {
  const size_t n_nearest = small_integer(k, max_k);
  const size_t n_threads = small_integer(threads, max_threads);
  if (n_nearest == 0 || n_threads == 0) return nb::none();
  const View<float> asked(queries, 2);
  if (!asked.is_valid() || asked.length(1) != index.dim() || asked.length(0) == 0) return nb::none();
  const size_t n = asked.length(0);
  if (n > max_graph_rows || n * asked.length(1) > quick_numbers) return nb::none();
  if (first_unfit_row(asked.data(), n, asked.length(1)) >= 0) return nb::none();
  std::optional<View<uint64_t>> bits;
  if (!keep.is_none()) {
    bits.emplace(keep, 1);
    if (!bits->is_valid() || bits->length(0) != words_for(index.size())) return nb::none();
  }
  NewMatrix<int64_t> rows(n, n_nearest);
  NewMatrix<float> distances(n, n_nearest);
  GraphSearch request{{asked.data(), n * asked.length(1)}, n, n_nearest, spread, margin};
  request.keep = bits ? bits->data() : nullptr;
  request.n_keep_words = bits ? bits->length(0) : 0;
  request.n_threads = n_threads;
  {
    const nb::gil_scoped_release released;
    index.search(request, {rows.values(), distances.values()}, {});
  }
  return nb::make_tuple(rows.take(), distances.take());
}

template <class T>
nb::object viewing(std::span<const T> values, std::initializer_list<size_t> shape, nb::handle owner) {
  return nb::cast(nb::ndarray<nb::numpy, const T>(values.data(), shape.size(), shape.begin(), owner));
}

// Views of the index's own memory, by name: for the writer of a file, while nobody mutates.
nb::dict arrays(nb::handle self) {
  const auto& index = nb::cast<const GraphIndex&>(self);
  const GraphIndex::State state = index.state();
  const size_t n = index.size();
  nb::dict out;
  out["codes"] = viewing(state.rows.codes, {n, index.padded_dim()}, self);
  out["fine"] = viewing(state.rows.fine, {n, index.padded_dim()}, self);
  out["signs"] = viewing(state.rows.signs, {n, index.sign_stride()}, self);
  out["sign_blocks"] = viewing(state.rows.sign_blocks, {index.n_sign_blocks(), index.sign_block_stride()}, self);
  out["factors"] = viewing(state.rows.factors, {n, 3}, self);
  out["centre"] = viewing(state.rows.centre, {index.padded_dim()}, self);
  out["neighbors"] = viewing(state.neighbors, {n, index.degree()}, self);
  out["blocks"] = viewing(state.blocks, {index.is_packed() ? n : 0, index.block_stride()}, self);
  out["entries"] = viewing(state.entries, {state.entries.size()}, self);
  out["live"] = viewing(state.live, {state.live.size()}, self);
  const std::span<const float> table{reinterpret_cast<const float*>(state.table.data()), 4 * state.table.size()};
  out["table"] = viewing(table, {state.table.size(), 4}, self);
  const std::span<const float> scans{reinterpret_cast<const float*>(state.scan_table.data()),
                                     2 * state.scan_table.size()};
  out["scan_table"] = viewing(scans, {state.scan_table.size(), 2}, self);
  return out;
}

std::unique_ptr<GraphIndex> open(size_t dim, const std::string& metric, uint64_t seed, size_t degree, size_t build_beam,
                                 float occlusion, bool packed, float longest, const Matrix<int8_t, 2>& codes,
                                 const Matrix<int8_t, 2>& fine, const Matrix<uint8_t, 2>& signs,
                                 const Matrix<uint8_t, 2>& sign_blocks, const Matrix<float, 2>& factors,
                                 const Matrix<float, 1>& centre, const Matrix<uint32_t, 2>& neighbors,
                                 const Matrix<uint8_t, 2>& blocks, const Matrix<uint32_t, 1>& entries,
                                 const Matrix<uint64_t, 1>& live, const Matrix<float, 2>& table,
                                 const Matrix<float, 2>& scan_table) {
  auto index =
      std::make_unique<GraphIndex>(dim, metric_of(metric), seed, LinkOptions{degree, build_beam, occlusion}, packed);
  const size_t n = codes.shape(0);
  const size_t padded = index->padded_dim();
  const bool fits =
      n <= max_graph_rows && codes.shape(1) == padded && fine.shape(0) == n && fine.shape(1) == padded &&
      signs.shape(0) == n && signs.shape(1) == index->sign_stride() &&
      sign_blocks.shape(0) == (n + block_rows - 1) / block_rows && sign_blocks.shape(1) == index->sign_block_stride() &&
      factors.shape(0) == n && factors.shape(1) == 3 && centre.shape(0) == padded && neighbors.shape(0) == n &&
      neighbors.shape(1) == degree && blocks.shape(0) == (packed ? n : 0) && blocks.shape(1) == index->block_stride() &&
      live.shape(0) == words_for(n) && table.shape(1) == 4 && scan_table.shape(1) == 2;
  if (!fits) wrong_value("[open] the arrays of the graph do not fit each other; restore the file or build it again");
  GraphIndex::State state;
  state.rows = {{codes.data(), codes.size()},
                {fine.data(), fine.size()},
                {signs.data(), signs.size()},
                {sign_blocks.data(), sign_blocks.size()},
                {factors.data(), factors.size()},
                {centre.data(), centre.size()},
                longest};
  state.neighbors = {neighbors.data(), neighbors.size()};
  state.blocks = {blocks.data(), blocks.size()};
  state.entries = {entries.data(), entries.size()};
  state.live = {live.data(), live.size()};
  state.table = {reinterpret_cast<const Operating*>(table.data()), table.shape(0)};
  state.scan_table = {reinterpret_cast<const ScanOperating*>(scan_table.data()), scan_table.shape(0)};
  index->open(state);
  return index;
}

size_t add(GraphIndex& index, const Rows& vectors, size_t threads) {
  const nb::gil_scoped_release released;
  return index.add(vectors.data(), vectors.shape(0), threads);
}

void join(GraphIndex& index, size_t threads) {
  const nb::gil_scoped_release released;
  index.join(threads);
}

size_t remove(GraphIndex& index, const Matrix<int64_t, 1>& rows) {
  const nb::gil_scoped_release released;
  return index.remove({rows.data(), rows.size()});
}

nb::object compacted(const GraphIndex& index, size_t threads) {
  std::vector<int64_t> old_rows;
  std::unique_ptr<GraphIndex> out;
  {
    const nb::gil_scoped_release released;
    out = index.compacted(threads, old_rows);
  }
  auto copy = uninitialised<int64_t>(old_rows.size());
  std::copy(old_rows.begin(), old_rows.end(), copy.get());
  return nb::make_tuple(std::move(out), owning(std::move(copy), {old_rows.size()}));
}

nb::tuple measure_costs(GraphIndex& index) {
  Costs costs{};
  {
    const nb::gil_scoped_release released;
    costs = index.measure_costs();
  }
  return nb::make_tuple(costs.hop, costs.block);
}

nb::object restore(const GraphIndex& index, const Matrix<int64_t, 1>& rows) {
  const size_t n = rows.size();
  auto out = uninitialised<float>(n * index.dim());
  {
    const nb::gil_scoped_release released;
    for (size_t i = 0; i < n; ++i) index.restore(static_cast<size_t>(rows.data()[i]), out.get() + i * index.dim());
  }
  return owning(std::move(out), {n, index.dim()});
}

}  // namespace

void bind_graph(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<GraphIndex>(m, "GraphIndex")
      .def_static("build", build, "vectors"_a, nb::kw_only(), "metric"_a, "seed"_a, "degree"_a, "build_beam"_a,
                  "occlusion"_a, "packed"_a, "costs"_a.none(), "threads"_a, "progress"_a.none(), "links"_a.none(),
                  "held_out"_a.none())
      // A converted array would die with the call: another dtype is refused.
      .def_static("open", open, nb::kw_only(), "dim"_a, "metric"_a, "seed"_a, "degree"_a, "build_beam"_a, "occlusion"_a,
                  "packed"_a, "longest"_a, "codes"_a.noconvert(), "fine"_a.noconvert(), "signs"_a.noconvert(),
                  "sign_blocks"_a.noconvert(), "factors"_a.noconvert(), "centre"_a.noconvert(),
                  "neighbors"_a.noconvert(), "blocks"_a.noconvert(), "entries"_a.noconvert(), "live"_a.noconvert(),
                  "table"_a.noconvert(), "scan_table"_a.noconvert(), nb::keep_alive<0, 9>(), nb::keep_alive<0, 10>(),
                  nb::keep_alive<0, 11>(), nb::keep_alive<0, 12>(), nb::keep_alive<0, 13>(), nb::keep_alive<0, 15>(),
                  nb::keep_alive<0, 16>())
      .def_static("first_unfit_row", unfit, "vectors"_a)
      .def("search", search, "queries"_a, "k"_a, "spread"_a, "margin"_a, "exact"_a, "keep"_a.none(), "threads"_a,
           "trace"_a)
      .def("quick_search", quick_search, "queries"_a, "k"_a, "spread"_a, "margin"_a, "keep"_a.none(), "threads"_a)
      .def("arrays", [](nb::handle_t<GraphIndex> self) { return arrays(self); })
      .def("add", add, "vectors"_a, "threads"_a)
      .def("join", join, "threads"_a)
      .def("remove", remove, "rows"_a)
      .def("compacted", compacted, "threads"_a)
      .def("emptied", &GraphIndex::emptied)
      .def("restore", restore, "rows"_a)
      .def("spread_for_effort", &GraphIndex::spread_for_effort, "effort"_a)
      .def("spread_for_recall", &GraphIndex::spread_for_recall, "recall"_a)
      .def("recall_of", &GraphIndex::recall_of, "spread"_a)
      .def("margin_for_recall", &GraphIndex::margin_for_recall, "recall"_a)
      .def("rank_from", &GraphIndex::rank_from, "file"_a, "offset"_a)
      .def("load", &GraphIndex::load, nb::call_guard<nb::gil_scoped_release>())
      .def("measure_costs", measure_costs)
      .def(
          "set_costs", [](GraphIndex& index, float hop, float block) { index.set_costs({hop, block}); }, "hop"_a,
          "block"_a)
      .def_prop_ro("costs", [](const GraphIndex& index) { return std::pair{index.costs().hop, index.costs().block}; })
      .def("n_unreachable", &GraphIndex::n_unreachable)
      .def_prop_ro("longest", [](const GraphIndex& index) { return index.state().rows.longest; })
      .def_prop_ro("metric", [](const GraphIndex& index) { return name_of(index.metric()); })
      .def_prop_ro("dim", &GraphIndex::dim)
      .def_prop_ro("size", &GraphIndex::size)
      .def_prop_ro("n_live", &GraphIndex::n_live)
      .def_prop_ro("degree", &GraphIndex::degree)
      .def_prop_ro("packed", &GraphIndex::is_packed)
      .def_prop_ro("owned_bytes", &GraphIndex::owned_bytes);
}

}  // namespace likewise
