// The Python face of the kernels: checks every argument, borrows its memory, calls without the GIL, hands back arrays
// that own theirs.
#define LIKEWISE_IMPORTS_NUMPY
#include "binding.h"

#include <algorithm>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

#include "bitmap.h"
#include "crc32c.h"
#include "scan.h"
#include "simd.h"
#include "sparse.h"

namespace likewise {
namespace {

Operator check_operator(nb::handle object) {
  const std::string name =
      check_name("compare", "op", object, {"LESS", "LESS_EQUAL", "EQUAL", "GREATER_EQUAL", "GREATER", "NOT_EQUAL"});
  if (name == "LESS") return Operator::less;
  if (name == "LESS_EQUAL") return Operator::less_equal;
  if (name == "EQUAL") return Operator::equal;
  if (name == "GREATER_EQUAL") return Operator::greater_equal;
  if (name == "GREATER") return Operator::greater;
  return Operator::not_equal;
}

struct Found {
  Found(size_t n_queries, size_t k)
      : n_queries(n_queries),
        k(k),
        rows(uninitialised<int64_t>(n_queries * k)),
        distances(uninitialised<float>(n_queries * k)) {}

  Neighbors view() { return {{rows.get(), n_queries * k}, {distances.get(), n_queries * k}}; }
  nb::object finish() {
    return nb::make_tuple(owning(std::move(rows), {n_queries, k}), owning(std::move(distances), {n_queries, k}));
  }

  size_t n_queries;
  size_t k;
  std::unique_ptr<int64_t[]> rows;
  std::unique_ptr<float[]> distances;
};

Crowding check_crowding(const char* operation, Argument& tags, nb::handle tag_cap, int64_t n_rows) {
  Crowding crowding;
  crowding.cap = static_cast<size_t>(check_integer(operation, "tag_cap", tag_cap, 0, max_k));
  if (!tags.is_none()) {
    tags.check<int32_t>({{"n", n_rows}});
    crowding.tags = tags.span<int32_t>();
  } else if (crowding.cap != 0) {
    wrong_value(std::string("[") + operation + "] tag_cap is " + std::to_string(crowding.cap) +
                " and tags is None; expected tags int32[n] with a cap; pass both or neither");
  }
  return crowding;
}

// The arguments that scan and rescore share; keeps what it borrows until the call ends.
class Request {
 public:
  Request(const char* operation, nb::handle vectors, nb::handle queries, nb::handle k, nb::handle metric,
          nb::handle mask, nb::handle offsets, nb::handle best_of, nb::handle scales, nb::handle bias, nb::handle tags,
          nb::handle tag_cap, nb::handle threads)
      : operation_(operation),
        vectors_(operation, "vectors", vectors),
        queries_(operation, "queries", queries),
        mask_(operation, "mask", mask),
        offsets_(operation, "offsets", offsets),
        scales_(operation, "scales", scales),
        bias_(operation, "bias", bias),
        tags_(operation, "tags", tags) {
    vectors_.check<float, int8_t>({{"N"}, {"d"}});
    if (vectors_.length(1) == 0) wrong_value(vectors_.prefix() + "has dimension 0; expected d >= 1");
    queries_.check<float>({{"q"}, {"d", vectors_.extent(1)}});
    check_offsets();
    search.queries = queries_.span<float>();
    search.n_queries = queries_.length(0);
    search.k = static_cast<size_t>(check_integer(operation, "k", k, 1, max_k));
    search.metric = check_metric(operation, metric);
    search.best_of =
        static_cast<size_t>(check_integer(operation, "best_of", best_of, 1, std::numeric_limits<int32_t>::max()));
    search.n_threads = static_cast<size_t>(check_integer(operation, "threads", threads, 1, max_threads));
    const auto n = static_cast<int64_t>(n_rows);
    if (!mask_.is_none()) {
      mask_.check<uint64_t>({{"words", static_cast<int64_t>(words_for(n_rows))}});
      search.has_mask = true;
      search.mask = mask_.span<uint64_t>();
    }
    if (!scales_.is_none()) {
      if (!is_int8()) wrong_value(scales_.prefix() + "is given with float32 vectors; expected None, or int8 vectors");
      scales_.check<float>({{"N", vectors_.extent(0)}});
    }
    if (!bias_.is_none()) {
      bias_.check<float>({{"q", queries_.extent(0)}, {"n", n}});
      search.bias = bias_.span<float>();
    }
    search.crowding = check_crowding(operation, tags_, tag_cap, n);
  }

  bool is_int8() const { return vectors_.holds<int8_t>(); }

  template <class T>
  Vectors<T> vectors() const {
    return {vectors_.span<T>(),
            vectors_.length(0),
            n_rows,
            vectors_.length(1),
            scales_.is_none() ? std::span<const float>() : scales_.span<float>(),
            offsets_.is_none() ? std::span<const int64_t>() : offsets_.span<int64_t>()};
  }

  Search search;
  size_t n_rows = 0;

 private:
  void check_offsets() {
    n_rows = vectors_.length(0);
    if (offsets_.is_none()) return;
    offsets_.check<int64_t>({{"n + 1"}});
    const std::span<const int64_t> offsets = offsets_.span<int64_t>();
    const int64_t n_vectors = vectors_.extent(0);
    if (offsets.empty() || offsets.front() != 0 || offsets.back() != n_vectors) {
      wrong_value(offsets_.prefix() + "runs from " +
                  (offsets.empty() ? std::string("nothing")
                                   : std::to_string(offsets.front()) + " to " + std::to_string(offsets.back())) +
                  "; expected 0 to " + std::to_string(n_vectors) + ", the number of vectors");
    }
    n_rows = offsets.size() - 1;
  }

  const char* operation_;
  Argument vectors_;
  Argument queries_;
  Argument mask_;
  Argument offsets_;
  Argument scales_;
  Argument bias_;
  Argument tags_;
};

nb::object py_scan(nb::handle vectors, nb::handle queries, nb::handle k, nb::handle metric, nb::handle mask,
                   nb::handle offsets, nb::handle best_of, nb::handle scales, nb::handle bias, nb::handle tags,
                   nb::handle tag_cap, nb::handle threads) {
  const Request request("scan", vectors, queries, k, metric, mask, offsets, best_of, scales, bias, tags, tag_cap,
                        threads);
  Found found(request.search.n_queries, request.search.k);
  {
    nb::gil_scoped_release unlocked;
    if (request.is_int8()) {
      scan(request.vectors<int8_t>(), request.search, found.view());
    } else {
      scan(request.vectors<float>(), request.search, found.view());
    }
  }
  return found.finish();
}

nb::object py_rescore(nb::handle vectors, nb::handle queries, nb::handle candidates, nb::handle k, nb::handle metric,
                      nb::handle offsets, nb::handle best_of, nb::handle scales, nb::handle bias, nb::handle tags,
                      nb::handle tag_cap, nb::handle mask, nb::handle threads) {
  const Request request("rescore", vectors, queries, k, metric, mask, offsets, best_of, scales, bias, tags, tag_cap,
                        threads);
  Argument listed("rescore", "candidates", candidates);
  listed.check<int64_t>({{"q", static_cast<int64_t>(request.search.n_queries)}, {"m"}});
  Found found(request.search.n_queries, request.search.k);
  {
    nb::gil_scoped_release unlocked;
    if (request.is_int8()) {
      rescore(request.vectors<int8_t>(), request.search, listed.span<int64_t>(), found.view());
    } else {
      rescore(request.vectors<float>(), request.search, listed.span<int64_t>(), found.view());
    }
  }
  return found.finish();
}

nb::object py_merge(nb::handle rows, nb::handle distances, nb::handle k, nb::handle tags, nb::handle tag_cap) {
  Argument row_lists("merge", "rows", rows);
  Argument distance_lists("merge", "distances", distances);
  Argument tag_list("merge", "tags", tags);
  row_lists.check<int64_t>({{"s"}, {"q"}, {"m"}});
  distance_lists.check<float>({{"s", row_lists.extent(0)}, {"q", row_lists.extent(1)}, {"m", row_lists.extent(2)}});
  const auto n_kept = static_cast<size_t>(check_integer("merge", "k", k, 1, max_k));
  const Crowding crowding = check_crowding("merge", tag_list, tag_cap, -1);
  Found found(row_lists.length(1), n_kept);
  {
    nb::gil_scoped_release unlocked;
    merge(row_lists.span<int64_t>(), distance_lists.span<float>(), row_lists.length(0), row_lists.length(1), n_kept,
          crowding, found.view());
  }
  return found.finish();
}

nb::object py_new_bitmap(nb::handle n, bool fill_all) {
  const auto n_rows = static_cast<size_t>(check_integer("new_bitmap", "n", n, 0, max_rows));
  const size_t n_words = words_for(n_rows);
  auto words = std::make_unique<uint64_t[]>(n_words);
  if (fill_all) fill({words.get(), n_words}, n_rows);
  return owning(std::move(words), {n_words});
}

template <void (*set32)(Bitmap, std::span<const int32_t>), void (*set64)(Bitmap, std::span<const int64_t>)>
void change_rows(const char* operation, nb::handle bitmap, nb::handle rows) {
  Argument words(operation, "bitmap", bitmap);
  const Bitmap target = words.check_writable_bitmap();
  Argument listed(operation, "rows", rows);
  listed.check<int32_t, int64_t>({{"m"}});
  nb::gil_scoped_release unlocked;
  if (listed.holds<int32_t>()) {
    set32(target, listed.span<int32_t>());
  } else {
    set64(target, listed.span<int64_t>());
  }
}

void py_set_rows(nb::handle bitmap, nb::handle rows) {
  change_rows<set_rows<int32_t>, set_rows<int64_t>>("set_rows", bitmap, rows);
}

void py_clear_rows(nb::handle bitmap, nb::handle rows) {
  change_rows<clear_rows<int32_t>, clear_rows<int64_t>>("clear_rows", bitmap, rows);
}

template <void (*join)(Bitmap, ConstBitmap)>
void join_bitmaps(const char* operation, nb::handle bitmap, nb::handle other) {
  Argument words(operation, "bitmap", bitmap);
  const Bitmap target = words.check_writable_bitmap();
  Argument others(operation, "other", other);
  others.check<uint64_t>({{"words", words.extent(0)}});
  nb::gil_scoped_release unlocked;
  join(target, others.span<uint64_t>());
}

void py_intersect(nb::handle bitmap, nb::handle other) { join_bitmaps<intersect>("intersect", bitmap, other); }

void py_union(nb::handle bitmap, nb::handle other) { join_bitmaps<unite>("union", bitmap, other); }

size_t check_bitmap(Argument& bitmap, const char* operation, nb::handle n) {
  const auto n_rows = static_cast<size_t>(check_integer(operation, "n", n, 0, max_rows));
  bitmap.check<uint64_t>({{"words", static_cast<int64_t>(words_for(n_rows))}});
  return n_rows;
}

size_t py_count(nb::handle bitmap, nb::handle n) {
  Argument words("count", "bitmap", bitmap);
  const size_t n_rows = check_bitmap(words, "count", n);
  nb::gil_scoped_release unlocked;
  return count(words.span<uint64_t>(), n_rows);
}

nb::object py_rows_of(nb::handle bitmap, nb::handle n) {
  Argument words("rows_of", "bitmap", bitmap);
  const size_t n_rows = check_bitmap(words, "rows_of", n);
  std::unique_ptr<int64_t[]> rows;
  size_t n_set = 0;
  {
    nb::gil_scoped_release unlocked;
    n_set = count(words.span<uint64_t>(), n_rows);
    rows = uninitialised<int64_t>(n_set);
    rows_of(words.span<uint64_t>(), n_rows, {rows.get(), n_set});
  }
  return owning(std::move(rows), {n_set});
}

// The value in the column's own type: an int for int64; rounded to float32 for float32, as its wire type is.
template <class T>
T check_compared(nb::handle value) {
  if constexpr (std::is_same_v<T, int64_t>) {
    return check_integer("compare", "value", value, std::numeric_limits<int64_t>::min(),
                         std::numeric_limits<int64_t>::max());
  } else {
    const double number = PyFloat_AsDouble(value.ptr());
    if (number == -1.0 && PyErr_Occurred() != nullptr) {
      PyErr_Clear();
      wrong_type("[compare] value is " + class_name(value) + "; expected a number");
    }
    return static_cast<T>(number);
  }
}

void py_compare(nb::handle bitmap, nb::handle values, nb::handle op, nb::handle value) {
  Argument column("compare", "values", values);
  column.check<int64_t, float, double>({{"n"}});
  Argument words("compare", "bitmap", bitmap);
  const Bitmap target = words.check_writable_bitmap();
  words.check<uint64_t>({{"words", static_cast<int64_t>(words_for(column.length(0)))}});
  const Operator wanted = check_operator(op);
  const auto run = [&]<class T>(T number) {
    nb::gil_scoped_release unlocked;
    compare<T>(target, column.span<T>(), wanted, number);
  };
  if (column.holds<int64_t>()) {
    run(check_compared<int64_t>(value));
  } else if (column.holds<float>()) {
    run(check_compared<float>(value));
  } else {
    run(check_compared<double>(value));
  }
}

nb::object py_sparse_scores(nb::handle offsets, nb::handle rows, nb::handle weights, nb::handle terms,
                            nb::handle term_weights, nb::handle n) {
  Argument term_offsets("sparse_scores", "offsets", offsets);
  Argument entry_rows("sparse_scores", "rows", rows);
  Argument entry_weights("sparse_scores", "weights", weights);
  Argument asked("sparse_scores", "terms", terms);
  Argument asked_weights("sparse_scores", "term_weights", term_weights);
  term_offsets.check<int64_t>({{"t + 1"}});
  if (term_offsets.length(0) == 0) wrong_value(term_offsets.prefix() + "has shape (0,); expected (t + 1,)");
  entry_rows.check<int32_t>({{"nnz"}});
  entry_weights.check<float>({{"nnz", entry_rows.extent(0)}});
  asked.check<int64_t>({{"m"}});
  asked_weights.check<float>({{"m", asked.extent(0)}});
  const auto n_rows =
      static_cast<size_t>(check_integer("sparse_scores", "n", n, 0, int64_t{std::numeric_limits<int32_t>::max()} + 1));
  std::unique_ptr<float[]> scores;
  {
    nb::gil_scoped_release unlocked;
    scores = uninitialised<float>(n_rows);
    sparse_scores({term_offsets.span<int64_t>(), entry_rows.span<int32_t>(), entry_weights.span<float>()},
                  asked.span<int64_t>(), asked_weights.span<float>(), {scores.get(), n_rows});
  }
  return owning(std::move(scores), {n_rows});
}

nb::object py_best_scores(nb::handle scores, nb::handle k, nb::handle mask) {
  Argument values("best_scores", "scores", scores);
  values.check<float>({{"n"}});
  const auto most =
      std::min<size_t>(static_cast<size_t>(check_integer("best_scores", "k", k, 1, max_k)), values.length(0));
  Argument passing("best_scores", "mask", mask);
  ConstBitmap words;
  if (!passing.is_none()) {
    passing.check<uint64_t>({{"words", static_cast<int64_t>(words_for(values.length(0)))}});
    words = passing.span<uint64_t>();
  }
  std::unique_ptr<int64_t[]> rows;
  std::unique_ptr<float[]> distances;
  size_t n_found = 0;
  {
    nb::gil_scoped_release unlocked;
    rows = uninitialised<int64_t>(most);
    distances = uninitialised<float>(most);
    n_found = best_scores(values.span<float>(), words, {rows.get(), most}, {distances.get(), most});
  }
  return nb::make_tuple(owning(std::move(rows), {n_found}), owning(std::move(distances), {n_found}));
}

// A borrowed contiguous buffer.
class Buffer {
 public:
  explicit Buffer(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) {
      PyErr_Clear();
      wrong_type("[crc32c] data is " + class_name(object) + "; expected a contiguous buffer of bytes");
    }
  }
  ~Buffer() { PyBuffer_Release(&view_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::span<const uint8_t> bytes() const {
    return {static_cast<const uint8_t*>(view_.buf), static_cast<size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

nb::object py_crc32c(nb::handle data, nb::handle block_bytes) {
  const auto block =
      static_cast<size_t>(check_integer("crc32c", "block_bytes", block_bytes, 1, std::numeric_limits<int64_t>::max()));
  const Buffer buffer(data);
  const size_t n_blocks = buffer.bytes().size() / block + (buffer.bytes().size() % block != 0);
  auto sums = uninitialised<uint32_t>(n_blocks);
  {
    nb::gil_scoped_release unlocked;
    crc32c(buffer.bytes(), block, {sums.get(), n_blocks});
  }
  return owning(std::move(sums), {n_blocks});
}

}  // namespace
}  // namespace likewise

NB_MODULE(_native, m) {
  using namespace nb::literals;
  using namespace likewise;
  if (_import_array() < 0) throw nb::python_error();
  m.doc() = "Native kernels; cpp_ext.reference documents each function.";
  m.def("backend", [] { return simd().name; });
  m.def("scan", py_scan, "vectors"_a.none(), "queries"_a.none(), "k"_a.none(), nb::kw_only(), "metric"_a.none(),
        "mask"_a.none() = nb::none(), "offsets"_a.none() = nb::none(), "best_of"_a.none() = 1,
        "scales"_a.none() = nb::none(), "bias"_a.none() = nb::none(), "tags"_a.none() = nb::none(),
        "tag_cap"_a.none() = 0, "threads"_a.none() = 1,
        nb::sig("def scan(vectors: " LIKEWISE_VECTORS ", queries: " LIKEWISE_F32
                ", k: int, *, metric: str, mask: " LIKEWISE_U64 " | None = None, offsets: " LIKEWISE_I64
                " | None = None, best_of: int = 1, scales: " LIKEWISE_F32 " | None = None, bias: " LIKEWISE_F32
                " | None = None, tags: " LIKEWISE_I32
                " | None = None, tag_cap: int = 0, threads: int = 1) -> " LIKEWISE_FOUND));
  m.def("rescore", py_rescore, "vectors"_a.none(), "queries"_a.none(), "candidates"_a.none(), "k"_a.none(),
        nb::kw_only(), "metric"_a.none(), "offsets"_a.none() = nb::none(), "best_of"_a.none() = 1,
        "scales"_a.none() = nb::none(), "bias"_a.none() = nb::none(), "tags"_a.none() = nb::none(),
        "tag_cap"_a.none() = 0, "mask"_a.none() = nb::none(), "threads"_a.none() = 1,
        nb::sig("def rescore(vectors: " LIKEWISE_VECTORS ", queries: " LIKEWISE_F32 ", candidates: " LIKEWISE_I64
                ", k: int, *, metric: str, offsets: " LIKEWISE_I64
                " | None = None, best_of: int = 1, scales: " LIKEWISE_F32 " | None = None, bias: " LIKEWISE_F32
                " | None = None, tags: " LIKEWISE_I32 " | None = None, tag_cap: int = 0, mask: " LIKEWISE_U64
                " | None = None, threads: int = 1) -> " LIKEWISE_FOUND));
  m.def("merge", py_merge, "rows"_a.none(), "distances"_a.none(), "k"_a.none(), nb::kw_only(),
        "tags"_a.none() = nb::none(), "tag_cap"_a.none() = 0,
        nb::sig("def merge(rows: " LIKEWISE_I64 ", distances: " LIKEWISE_F32 ", k: int, *, tags: " LIKEWISE_I32
                " | None = None, tag_cap: int = 0) -> " LIKEWISE_FOUND));
  m.def("new_bitmap", py_new_bitmap, "n"_a.none(), "fill"_a = false,
        nb::sig("def new_bitmap(n: int, fill: bool = False) -> " LIKEWISE_U64));
  m.def("set_rows", py_set_rows, "bitmap"_a.none(), "rows"_a.none(),
        nb::sig("def set_rows(bitmap: " LIKEWISE_U64 ", rows: " LIKEWISE_I32 " | " LIKEWISE_I64 ") -> None"));
  m.def("clear_rows", py_clear_rows, "bitmap"_a.none(), "rows"_a.none(),
        nb::sig("def clear_rows(bitmap: " LIKEWISE_U64 ", rows: " LIKEWISE_I32 " | " LIKEWISE_I64 ") -> None"));
  m.def("intersect", py_intersect, "bitmap"_a.none(), "other"_a.none(),
        nb::sig("def intersect(bitmap: " LIKEWISE_U64 ", other: " LIKEWISE_U64 ") -> None"));
  m.def("union", py_union, "bitmap"_a.none(), "other"_a.none(),
        nb::sig("def union(bitmap: " LIKEWISE_U64 ", other: " LIKEWISE_U64 ") -> None"));
  m.def("count", py_count, "bitmap"_a.none(), "n"_a.none(),
        nb::sig("def count(bitmap: " LIKEWISE_U64 ", n: int) -> int"));
  m.def("rows_of", py_rows_of, "bitmap"_a.none(), "n"_a.none(),
        nb::sig("def rows_of(bitmap: " LIKEWISE_U64 ", n: int) -> " LIKEWISE_I64));
  m.def("compare", py_compare, "bitmap"_a.none(), "values"_a.none(), "op"_a.none(), "value"_a.none(),
        nb::sig("def compare(bitmap: " LIKEWISE_U64 ", values: " LIKEWISE_I64 " | " LIKEWISE_F32
                " | numpy.typing.NDArray[numpy.float64], op: str, value: int | float) -> None"));
  m.def("sparse_scores", py_sparse_scores, "offsets"_a.none(), "rows"_a.none(), "weights"_a.none(), "terms"_a.none(),
        "term_weights"_a.none(), "n"_a.none(),
        nb::sig("def sparse_scores(offsets: " LIKEWISE_I64 ", rows: " LIKEWISE_I32 ", weights: " LIKEWISE_F32
                ", terms: " LIKEWISE_I64 ", term_weights: " LIKEWISE_F32 ", n: int) -> " LIKEWISE_F32));
  m.def("best_scores", py_best_scores, "scores"_a.none(), "k"_a.none(), "mask"_a.none() = nb::none(),
        nb::sig("def best_scores(scores: " LIKEWISE_F32 ", k: int, mask: " LIKEWISE_U64
                " | None = None) -> " LIKEWISE_FOUND));
  m.def("crc32c", py_crc32c, "data"_a.none(), "block_bytes"_a.none(),
        nb::sig("def crc32c(data: typing_extensions.Buffer, block_bytes: int) -> numpy.typing.NDArray[numpy.uint32]"));
  bind_diversity(m);
  bind_graph(m);
  bind_space(m);
}
