// The Python face of diversity.h.
#include <array>
#include <set>

#include "binding.h"
#include "diversity.h"

namespace likewise {
namespace {

double check_fraction(const char* operation, const char* name, nb::handle object) {
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    wrong_type(std::string("[") + operation + "] " + name + " is " + class_name(object) + "; expected a number");
  }
  if (!(value >= 0.0 && value <= 1.0)) {
    wrong_value(std::string("[") + operation + "] " + name + " is " + text(nb::float_(value)) +
                "; expected 0 <= " + name + " <= 1");
  }
  return value;
}

void check_caps(Argument& caps, const Argument& tags, int64_t n_columns) {
  if (tags.is_none())
    wrong_value(caps.prefix() + "is given and tags is None; expected tags int32[t, n] with caps; pass both or neither");
  caps.check<int32_t>({{"t", n_columns}});
  for (const int32_t cap : caps.span<int32_t>()) {
    if (cap < 0) wrong_value(caps.prefix() + "holds " + std::to_string(cap) + "; expected 0 (no cap) or more");
  }
}

std::vector<Quota> check_quotas(Argument& quotas, const Argument& tags, int64_t n_columns) {
  if (tags.is_none())
    wrong_value(quotas.prefix() +
                "is given and tags is None; expected tags int32[t, n] with quotas; pass both or neither");
  quotas.check<int32_t>({{"m"}, {"fields", 4}});
  if (quotas.length(0) > max_quotas) {
    wrong_value(quotas.prefix() + "holds " + std::to_string(quotas.length(0)) + " quotas; expected at most " +
                std::to_string(max_quotas));
  }
  std::vector<Quota> checked;
  std::set<std::pair<int32_t, int32_t>> seen;
  const std::span<const int32_t> values = quotas.span<int32_t>();
  for (size_t i = 0; i < values.size(); i += 4) {
    const std::array<int32_t, 4> v{values[i], values[i + 1], values[i + 2], values[i + 3]};
    const bool is_sound = v[0] >= 0 && v[0] < n_columns && v[1] >= 0 && v[2] >= 0 && v[2] <= v[3];
    if (!is_sound || !seen.insert({v[0], v[1]}).second) {
      wrong_value(quotas.prefix() + "holds " +
                  tuple_of({std::to_string(v[0]), std::to_string(v[1]), std::to_string(v[2]), std::to_string(v[3])}) +
                  (is_sound ? ", a second quota of its tag; expected one quota a tag"
                            : "; expected a column below " + std::to_string(n_columns) +
                                  ", a tag of 0 or more and 0 <= least <= most"));
    }
    checked.push_back({static_cast<size_t>(v[0]), v[1], static_cast<size_t>(v[2]), static_cast<size_t>(v[3])});
  }
  return checked;
}

nb::object py_diversify(nb::handle rows, nb::handle distances, nb::handle k, nb::handle tags, nb::handle caps,
                        nb::handle quotas, nb::handle vectors, nb::handle metric, nb::handle mmr_lambda) {
  constexpr const char* operation = "diversify";
  Argument row_lists(operation, "rows", rows);
  Argument distance_lists(operation, "distances", distances);
  Argument tag_columns(operation, "tags", tags);
  Argument cap_list(operation, "caps", caps);
  Argument quota_list(operation, "quotas", quotas);
  Argument table(operation, "vectors", vectors);
  row_lists.check<int64_t>({{"q"}, {"c"}});
  distance_lists.check<float>({{"q", row_lists.extent(0)}, {"c", row_lists.extent(1)}});
  const auto n_kept = static_cast<size_t>(check_integer(operation, "k", k, 1, max_k));
  size_t n_rows = any_row;
  TagRules rules;
  if (!tag_columns.is_none()) {
    tag_columns.check<int32_t>({{"t"}, {"n"}});
    rules.tags = tag_columns.span<int32_t>();
    rules.n_columns = tag_columns.length(0);
    n_rows = tag_columns.length(1);
  }
  const auto n_columns = static_cast<int64_t>(rules.n_columns);
  if (!cap_list.is_none()) {
    check_caps(cap_list, tag_columns, n_columns);
    rules.caps = cap_list.span<int32_t>();
  }
  std::vector<Quota> checked_quotas;
  if (!quota_list.is_none()) checked_quotas = check_quotas(quota_list, tag_columns, n_columns);
  rules.quotas = checked_quotas;
  Mmr mmr;
  mmr.metric = check_metric(operation, metric);
  mmr.lambda = check_fraction(operation, "mmr_lambda", mmr_lambda);
  if (!table.is_none()) {
    table.check<float>({{"n", n_rows == any_row ? -1 : static_cast<int64_t>(n_rows)}, {"d"}});
    if (table.length(1) == 0) wrong_value(table.prefix() + "has dimension 0; expected d >= 1");
    mmr.vectors = table.span<float>();
    mmr.dim = table.length(1);
    n_rows = table.length(0);
  } else if (mmr.lambda < 1.0) {
    wrong_value("[diversify] mmr_lambda is " + text(nb::float_(mmr.lambda)) +
                " and vectors is None; expected vectors float32[n, d] with MMR; pass them or leave mmr_lambda at 1");
  }
  const Candidates candidates{row_lists.span<int64_t>(), distance_lists.span<float>(), row_lists.length(0),
                              row_lists.length(1)};
  const size_t n_queries = candidates.n_queries;
  const size_t n_rules = rules.n_columns + 2;
  auto positions = uninitialised<int64_t>(n_queries * n_kept);
  auto given_up = uninitialised<float>(n_queries * n_rules);
  auto moved = uninitialised<int32_t>(n_queries * n_rules);
  auto shortfall = uninitialised<int32_t>(n_queries * checked_quotas.size());
  {
    nb::gil_scoped_release unlocked;
    diversify(candidates, rules, mmr, n_rows, n_kept,
              {{positions.get(), n_queries * n_kept},
               {given_up.get(), n_queries * n_rules},
               {moved.get(), n_queries * n_rules},
               {shortfall.get(), n_queries * checked_quotas.size()}});
  }
  return nb::make_tuple(
      owning(std::move(positions), {n_queries, n_kept}), owning(std::move(given_up), {n_queries, n_rules}),
      owning(std::move(moved), {n_queries, n_rules}), owning(std::move(shortfall), {n_queries, checked_quotas.size()}));
}

}  // namespace

void bind_diversity(nb::module_& m) {
  using namespace nb::literals;
  m.def("diversify", py_diversify, "rows"_a.none(), "distances"_a.none(), "k"_a.none(), nb::kw_only(),
        "tags"_a.none() = nb::none(), "caps"_a.none() = nb::none(), "quotas"_a.none() = nb::none(),
        "vectors"_a.none() = nb::none(), "metric"_a.none() = "cosine", "mmr_lambda"_a.none() = 1.0,
        nb::sig("def diversify(rows: " LIKEWISE_I64 ", distances: " LIKEWISE_F32 ", k: int, *, tags: " LIKEWISE_I32
                " | None = None, caps: " LIKEWISE_I32 " | None = None, quotas: " LIKEWISE_I32
                " | None = None, vectors: " LIKEWISE_F32
                " | None = None, metric: str = 'cosine', mmr_lambda: float = 1.0) -> tuple[" LIKEWISE_I64
                ", " LIKEWISE_F32 ", " LIKEWISE_I32 ", " LIKEWISE_I32 "]"));
}

}  // namespace likewise
