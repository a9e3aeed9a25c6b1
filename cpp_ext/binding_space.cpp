// A space of a snapshot in Python. matching.Space plans, checks and documents; here arrays are borrowed and the GIL is
// released for the whole search.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "binding.h"
#include "search_space.h"

namespace likewise {
namespace {

using GivenShard = std::tuple<int64_t, size_t, Matrix<float, 2>, std::optional<Matrix<int64_t, 1>>, nb::object, bool>;

std::vector<SpaceShard> checked(const std::vector<GivenShard>& given, size_t dim, size_t n_rows) {
  std::vector<SpaceShard> shards;
  for (const auto& [first_row, n_own, vectors, offsets, graph, grows] : given) {
    const size_t n_vectors = vectors.shape(0);
    SpaceShard shard{first_row, {{vectors.data(), vectors.size()}, n_vectors, n_own, dim, {}, {}}, nullptr, grows};
    if (offsets) shard.vectors.offsets = {offsets->data(), offsets->size()};
    if (!graph.is_none()) shard.graph = nb::cast<const GraphIndex*>(graph);
    const bool owns_all = offsets
                              ? offsets->size() == n_own + 1 && static_cast<size_t>(offsets->data()[n_own]) == n_vectors
                              : n_own == n_vectors;
    const bool fits = vectors.shape(1) == dim && owns_all && first_row >= 0 && first_row % int64_t{word_bits} == 0 &&
                      static_cast<size_t>(first_row) + n_own <= n_rows &&
                      (shard.graph == nullptr || shard.graph->dim() == dim);
    if (!fits) wrong_value("[space] the arrays of the shard at row " + std::to_string(first_row) + " do not fit");
    shards.push_back(shard);
  }
  return shards;
}

// The space and what it borrows.
struct HeldSpace {
  HeldSpace(std::vector<GivenShard> given, size_t dim, size_t n_rows, nb::handle metric, size_t best_of)
      : kept(std::move(given)),
        space(checked(kept, dim, n_rows), dim, n_rows, check_metric("space", metric), best_of) {}

  std::vector<GivenShard> kept;
  SearchSpace space;
};

// What an argument holds, nothing for None.
template <class T>
std::span<const T> borrowed(nb::handle object, int n_dims, const char* name, size_t wanted) {
  if (object.is_none()) return {};
  const View<T> view(object, n_dims);
  if (!view.is_valid() || view.size() != wanted) {
    wrong_value(std::string("[space] ") + name + " is no array of " + std::to_string(wanted) + " of the expected type");
  }
  return {view.data(), wanted};
}

nb::object search(const HeldSpace& held, nb::handle queries, size_t k, float effort, size_t n_candidates,
                  nb::handle matching, size_t n_matching, nb::handle bias, nb::handle tags, size_t tag_cap) {
  const SearchSpace& space = held.space;
  const View<float> asked(queries, 2);
  if (!asked.is_valid() || asked.length(1) != space.dim() || k == 0) {
    wrong_value("[space] queries are no float32 array [q, " + std::to_string(space.dim()) + "], or k is 0");
  }
  const size_t n = asked.length(0);
  NewMatrix<int64_t> rows(n, k);
  NewMatrix<float> distances(n, k);
  SpaceSearch request{{asked.data(), asked.size()}, n, k, effort, n_candidates};
  request.matching = borrowed<uint64_t>(matching, 1, "matching", words_for(space.n_rows())).data();
  request.n_matching = n_matching;
  request.bias = borrowed<float>(bias, 2, "bias", n * space.n_rows());
  if (tag_cap != 0) request.tags = borrowed<int32_t>(tags, 1, "tags", space.n_rows());
  if (tag_cap != 0 && tags.is_none()) wrong_value("[space] a cap without tags; give both");
  request.tag_cap = tag_cap;
  size_t n_scored = 0;
  {
    const nb::gil_scoped_release released;
    n_scored = space.search(request, {rows.values(), distances.values()});
  }
  return nb::make_tuple(rows.take(), distances.take(), n_scored);
}

}  // namespace

void bind_space(nb::module_& m) {
  using namespace nb::literals;
  nb::class_<HeldSpace>(m, "SearchSpace")
      .def(nb::init<std::vector<GivenShard>, size_t, size_t, nb::handle, size_t>(), "shards"_a, nb::kw_only(), "dim"_a,
           "n_rows"_a, "metric"_a, "best_of"_a)
      .def("search", search, "queries"_a, "k"_a, "effort"_a, "n_candidates"_a, "matching"_a.none(), "n_matching"_a,
           "bias"_a.none(), "tags"_a.none(), "tag_cap"_a);
}

}  // namespace likewise
