#include "diversity.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "simd.h"

namespace likewise {
namespace {

constexpr size_t no_cell = std::numeric_limits<size_t>::max();
constexpr size_t meet_at_once = 4;  // a register block of one query
constexpr float infinity = std::numeric_limits<float>::infinity();

// Numbers the (column, tag) pairs that a rule is about; open addressing, sized once.
class CellNumbers {
 public:
  explicit CellNumbers(size_t n_cells) : slots_(std::bit_ceil(2 * n_cells + 2)) {}

  void clear() {
    ++round_;
    n_ = 0;
  }

  size_t size() const { return n_; }

  // A pair not seen before gets the next number, or none.
  size_t of(size_t column, int32_t tag, bool may_add) {
    const uint64_t key = static_cast<uint64_t>(column) << 32 | static_cast<uint32_t>(tag);
    const size_t last = slots_.size() - 1;
    size_t at = (key * 0x9E3779B97F4A7C15U >> 32) & last;
    while (slots_[at].round == round_ && slots_[at].key != key) at = (at + 1) & last;
    if (slots_[at].round == round_) return slots_[at].cell;
    if (!may_add) return no_cell;
    slots_[at] = {round_, key, n_};
    return n_++;
  }

 private:
  struct Slot {
    uint64_t round = 0;
    uint64_t key = 0;
    size_t cell = no_cell;
  };
  uint64_t round_ = 1;
  size_t n_ = 0;
  std::vector<Slot> slots_;
};

// The choice for one query after the other. Besides what is chosen it holds a reserve: candidates that keep within the
// caps and fill every quota as far as it can be filled. A candidate may be chosen while the reserve can be mended
// around it, by exchanging reserves along a path (Ford and Fulkerson: cells are nodes, candidates are edges). What
// cannot be chosen now can never be chosen later.
class Slate {
 public:
  Slate(const TagRules& rules, const Mmr& mmr, size_t n_candidates, size_t k)
      : rules_(rules),
        mmr_(mmr),
        k_(std::min(k, n_candidates)),
        n_columns_(rules.n_columns),
        has_quotas_(n_columns_),
        numbers_(rules.quotas.size() + n_candidates * n_columns_),
        cells_(rules.quotas.size() + n_candidates * n_columns_),
        lists_(n_columns_ + 3) {
    for (const Quota& quota : rules.quotas) has_quotas_[quota.column] = 1;
    n_quota_columns_ = static_cast<size_t>(std::count(has_quotas_.begin(), has_quotas_.end(), 1));
    positions_.reserve(n_candidates);
    rows_.reserve(n_candidates);
    distances_.reserve(n_candidates);
    cells_of_.resize(n_candidates * n_columns_);
    states_.resize(n_candidates);
    pinned_.resize(n_candidates);
    listed_.resize(n_candidates);
    log_.reserve(n_candidates);
    list_.reserve(k_);
    for (std::vector<size_t>& list : lists_) list.reserve(k_);
    if (!uses_mmr()) return;
    nearest_.resize(n_candidates);
    scores_.resize(n_candidates);
    norms_.resize(n_candidates);
    n_met_.resize(n_candidates);
    heap_.reserve(n_candidates);
    chosen_rows_.resize(k_);
  }

  // Expects checked rows.
  void start(std::span<const int64_t> rows, std::span<const float> distances) {
    positions_.clear();
    rows_.clear();
    distances_.clear();
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] < 0 || !(distances[i] < infinity)) continue;
      positions_.push_back(static_cast<int64_t>(i));
      rows_.push_back(rows[i]);
      distances_.push_back(distances[i]);
    }
    number_cells();
  }

  // One list a rule, each under all the rules before: what a rule costs is the difference between two.
  void run(std::span<int64_t> positions, std::span<float> given_up, std::span<int32_t> moved,
           std::span<int32_t> shortfall) {
    list_.clear();
    for (size_t at = 0; at < std::min(k_, positions_.size()); ++at) list_.push_back(at);
    keep_list(0);
    for (size_t column = 0; column < rules_.caps.size(); ++column) {
      if (rules_.caps[column] != 0) choose_within_caps(column + 1);
      keep_list(column + 1);
    }
    for (size_t column = rules_.caps.size(); column < n_columns_; ++column) keep_list(column + 1);
    if (!rules_.quotas.empty()) choose_nearest();
    keep_list(n_columns_ + 1);
    if (uses_mmr()) choose_by_mmr();
    keep_list(n_columns_ + 2);
    for (size_t rule = 0; rule < n_columns_ + 2; ++rule) {
      given_up[rule] = static_cast<float>(cost_of_list(rule + 1) - cost_of_list(rule));
      moved[rule] = n_moved(rule);
    }
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = i < list_.size() ? positions_[list_[i]] : -1;
    for (size_t i = 0; i < shortfall.size(); ++i) {
      shortfall[i] = static_cast<int32_t>(cells_[i].least - std::min(cells_[i].least, cells_[i].n_chosen));
    }
  }

 private:
  enum class State : uint8_t { free, reserved, chosen, refused };

  // What carries one tag of one column; the quotas come first, in their order.
  struct Cell {
    size_t least = 0;
    size_t most = 0;
    size_t floor = 0;   // what the reserve has promised of least
    size_t n_held = 0;  // chosen or reserved
    size_t n_chosen = 0;
    uint64_t covered = 0;  // the last round that tried to
    uint64_t vacated = 0;
  };

  struct Bound {
    double cost;
    size_t at;
  };
  // A heap with the least cost on top; ties go to the nearer.
  static bool later(const Bound& a, const Bound& b) { return a.cost > b.cost || (a.cost == b.cost && a.at > b.at); }

  bool uses_mmr() const { return mmr_.lambda < 1.0; }
  size_t n_quotas() const { return rules_.quotas.size(); }
  std::span<const size_t> cells_of(size_t at) const {
    return std::span(cells_of_).subspan(at * n_columns_, n_columns_);
  }
  bool has(size_t at, size_t cell) const {
    const auto cells = cells_of(at);
    return std::find(cells.begin(), cells.end(), cell) != cells.end();
  }

  template <class Visit>
  void for_each_cell(size_t at, Visit&& visit) {
    for (const size_t cell : cells_of(at)) {
      if (cell != no_cell) visit(cells_[cell]);
    }
  }

  template <class Holds>
  bool any_cell(size_t at, Holds&& holds) const {
    const auto cells = cells_of(at);
    return std::any_of(cells.begin(), cells.end(), [&](size_t cell) { return cell != no_cell && holds(cell); });
  }

  void number_cells() {
    numbers_.clear();
    for (const Quota& quota : rules_.quotas) {
      Cell& cell = cells_[numbers_.of(quota.column, quota.tag, true)];
      cell.least = quota.least;
      cell.most = quota.most;
    }
    const size_t n_rows = n_columns_ == 0 ? 0 : rules_.tags.size() / n_columns_;
    for (size_t column = 0; column < n_columns_; ++column) {
      const size_t cap = rules_.caps.empty() ? 0 : static_cast<size_t>(rules_.caps[column]);
      const bool is_ruled = cap != 0 || has_quotas_[column] != 0;
      for (size_t at = 0; at < rows_.size(); ++at) {
        const int32_t tag = is_ruled ? rules_.tags[column * n_rows + static_cast<size_t>(rows_[at])] : -1;
        const size_t number = tag < 0 ? no_cell : numbers_.of(column, tag, cap != 0);
        cells_of_[at * n_columns_ + column] = number;
        if (number == no_cell || number < n_quotas()) continue;
        cells_[number].least = 0;
        cells_[number].most = cap;
      }
    }
  }

  void keep_list(size_t n_rules) { lists_[n_rules].assign(list_.begin(), list_.end()); }

  // Counts the places that the answer fills: one left empty gives up nothing.
  double cost_of_list(size_t n_rules) const {
    const std::vector<size_t>& list = lists_[n_rules];
    double cost = 0.0;
    for (size_t i = 0; i < std::min(list.size(), list_.size()); ++i) {
      cost += static_cast<double>(distances_[list[i]]) - static_cast<double>(distances_[i]);
    }
    return cost;
  }

  int32_t n_moved(size_t rule) {
    ++round_;
    for (const size_t at : lists_[rule + 1]) listed_[at] = round_;
    const std::vector<size_t>& before = lists_[rule];
    return static_cast<int32_t>(
        std::count_if(before.begin(), before.end(), [&](size_t at) { return listed_[at] != round_; }));
  }

  void clear_choice() {
    list_.clear();
    n_held_ = 0;
    std::fill(states_.begin(), states_.end(), State::free);
    for (size_t i = 0; i < numbers_.size(); ++i) {
      cells_[i].floor = cells_[i].n_held = cells_[i].n_chosen = 0;
    }
  }

  void choose_within_caps(size_t n_columns) {
    clear_choice();
    for (size_t at = 0; at < positions_.size() && list_.size() < k_; ++at) {
      const auto cells = cells_of(at).first(n_columns);
      bool fits = true;
      for (size_t column = 0; fits && column < n_columns; ++column) {
        const auto cap = static_cast<size_t>(rules_.caps[column]);
        fits = cap == 0 || cells[column] == no_cell || cells_[cells[column]].n_chosen < cap;
      }
      if (!fits) continue;
      list_.push_back(at);
      for (const size_t cell : cells) {
        if (cell != no_cell) ++cells_[cell].n_chosen;
      }
    }
  }

  void choose_nearest() {
    clear_choice();
    fill_reserve();
    for (size_t at = 0; at < positions_.size() && list_.size() < k_; ++at) take(at);
    take_refused();
  }

  // Costs only grow as more are chosen, so an old cost is a lower bound: a candidate meets those chosen since only when
  // it leads the heap, and a few at a time: most fall behind before they have met them all.
  void choose_by_mmr() {
    clear_choice();
    fill_reserve();
    heap_.clear();
    for (size_t at = 0; at < positions_.size(); ++at) {
      nearest_[at] = infinity;
      n_met_[at] = 0;
      heap_.push_back({mmr_.lambda * distances_[at], at});  // ascending: a heap already
    }
    if (mmr_.metric == Metric::cosine) measure_norms();
    while (!heap_.empty() && list_.size() < k_) {
      const size_t at = heap_.front().at;
      std::pop_heap(heap_.begin(), heap_.end(), later);
      if (is_full(at)) {
        heap_.pop_back();
      } else if (n_met_[at] < list_.size()) {
        meet_chosen(at);
        heap_.back().cost = cost_of(at);
        std::push_heap(heap_.begin(), heap_.end(), later);
      } else {
        heap_.pop_back();
        if (!take(at)) continue;
        chosen_rows_[list_.size() - 1] = rows_[at];
        if (list_.size() == 1) all_meet(at);
      }
    }
    take_refused();
  }

  double cost_of(size_t at) const {
    return mmr_.lambda * distances_[at] - (1.0 - mmr_.lambda) * static_cast<double>(nearest_[at]);
  }

  const float* vector(size_t at) const { return mmr_.vectors.data() + static_cast<size_t>(rows_[at]) * mmr_.dim; }

  void measure_norms() {
    simd().f32.norm({nullptr, 0, mmr_.dim, mmr_.vectors.data(), rows_.data(), rows_.size(), 0, nullptr, norms_.data(),
                     rows_.size()});
    for (size_t at = 0; at < rows_.size(); ++at) norms_[at] = std::sqrt(norms_[at]);
  }

  void all_meet(size_t first) {
    score(first, rows_);
    for (size_t at = 0; at < rows_.size(); ++at) {
      approach(at, first, scores_[at]);
      n_met_[at] = 1;
    }
    for (Bound& bound : heap_) bound.cost = cost_of(bound.at);
    std::make_heap(heap_.begin(), heap_.end(), later);
  }

  void meet_chosen(size_t at) {
    const size_t n_met = n_met_[at];
    const size_t n = std::min(meet_at_once, list_.size() - n_met);
    score(at, std::span(chosen_rows_).subspan(n_met, n));
    for (size_t i = 0; i < n; ++i) approach(at, list_[n_met + i], scores_[i]);
    n_met_[at] += n;
  }

  void score(size_t at, std::span<const int64_t> rows) {
    const Scores<float>& table = simd().f32;
    (mmr_.metric == Metric::l2 ? table.l2 : table.dot)({vector(at), 1, mmr_.dim, mmr_.vectors.data(), rows.data(),
                                                        rows.size(), 0, nullptr, scores_.data(), rows.size()});
  }

  void approach(size_t at, size_t chosen, float score) {
    float distance = score;
    if (mmr_.metric == Metric::ip) {
      distance = -score;
    } else if (mmr_.metric == Metric::cosine) {
      const float norms = norms_[chosen] * norms_[at];
      distance = 1.0F - (norms > 0.0F ? score / norms : 0.0F);
    }
    if (distance < nearest_[at]) nearest_[at] = distance;
  }

  // --- The reserve -------------------------------------------------------------------------------------------------

  void fill_reserve() {
    for (size_t i = 0; i < n_quotas(); ++i) {
      Cell& cell = cells_[i];
      bool is_growing = true;
      while (is_growing && cell.n_held < cell.least && n_held_ < k_) {
        cell.floor = cell.n_held + 1;  // so that an exchange within the cell is no gain
        begin_exchange();
        is_growing = cover(i);
      }
      cell.floor = std::min(cell.least, cell.n_held);
    }
  }

  bool is_full(size_t at) const {
    return any_cell(at, [&](size_t cell) { return cells_[cell].n_chosen >= cells_[cell].most; });
  }

  // Chooses a candidate if every promise can be kept.
  bool take(size_t at) {
    if (states_[at] != State::reserved) {
      if (is_full(at)) return false;
      begin_exchange();
      hold(at, State::chosen);
      release_redundant();
      if (!make_room(at) || n_held_ > k_) {
        undo(0);
        states_[at] = State::refused;
        return false;
      }
    }
    states_[at] = State::chosen;
    for_each_cell(at, [](Cell& cell) { ++cell.n_chosen; });
    list_.push_back(at);
    return true;
  }

  // With many columns an exchange may have been overlooked; by now what was refused for it may fit.
  void take_refused() {
    for (size_t at = 0; at < positions_.size() && list_.size() < k_; ++at) {
      if (states_[at] == State::refused) take(at);
    }
  }

  // Reserves one more candidate of a cell.
  bool cover(size_t cell) {
    if (cells_[cell].covered == round_) return false;
    cells_[cell].covered = round_;
    for (size_t gain = n_quota_columns_; gain > 0; --gain) {  // one that serves several quotas saves a place
      for (size_t at = 0; at < positions_.size(); ++at) {
        if (states_[at] != State::free || !has(at, cell) || gain_of(at) != gain) continue;
        const size_t mark = log_.size();
        hold(at, State::reserved);
        if (make_room(at)) return true;
        undo(mark);
      }
    }
    return false;
  }

  size_t gain_of(size_t at) {
    size_t gain = 0;
    for_each_cell(at, [&](const Cell& cell) { gain += cell.n_held < cell.least; });
    return gain;
  }

  bool make_room(size_t at) {
    return !any_cell(at, [&](size_t cell) {
      while (cells_[cell].n_held > cells_[cell].most) {
        if (!vacate(cell)) return true;
      }
      return false;
    });
  }

  // Lets one of a cell's reserves go and covers what then lacks.
  bool vacate(size_t cell) {
    if (cells_[cell].vacated == round_) return false;
    cells_[cell].vacated = round_;
    for (size_t at = 0; at < positions_.size(); ++at) {
      if (states_[at] != State::reserved || pinned_[at] == round_ || !has(at, cell)) continue;
      const size_t mark = log_.size();
      release(at);
      if (!any_cell(at, [&](size_t i) { return cells_[i].n_held < cells_[i].floor && !cover(i); })) return true;
      undo(mark);
    }
    return false;
  }

  // Lets go what the quotas can do without now, first of all from overfull cells.
  void release_redundant() {
    if (n_quotas() == 0) return;
    const auto is_overfull = [&](size_t i) { return cells_[i].n_held > cells_[i].most; };
    for (const bool anywhere : {false, true}) {
      for (size_t at = positions_.size(); at-- > 0;) {
        if (states_[at] != State::reserved) continue;
        if (any_cell(at, [&](size_t i) { return cells_[i].floor != 0 && cells_[i].n_held <= cells_[i].floor; }))
          continue;
        if (anywhere || any_cell(at, is_overfull)) release(at);
      }
    }
  }

  struct Step {
    size_t at;
    State before;
  };

  void begin_exchange() {
    ++round_;
    log_.clear();
  }

  void hold(size_t at, State state) {
    log_.push_back({at, states_[at]});
    states_[at] = state;
    pinned_[at] = round_;
    ++n_held_;
    for_each_cell(at, [](Cell& cell) { ++cell.n_held; });
  }

  void release(size_t at) {
    log_.push_back({at, states_[at]});
    states_[at] = State::free;
    --n_held_;
    for_each_cell(at, [](Cell& cell) { --cell.n_held; });
  }

  void undo(size_t mark) {
    for (; log_.size() > mark; log_.pop_back()) {
      const Step step = log_.back();
      const bool was_held = step.before == State::reserved;
      states_[step.at] = step.before;
      was_held ? ++n_held_ : --n_held_;
      for_each_cell(step.at, [&](Cell& cell) { was_held ? ++cell.n_held : --cell.n_held; });
    }
  }

  const TagRules& rules_;
  const Mmr& mmr_;
  size_t k_;
  size_t n_columns_;
  size_t n_quota_columns_ = 0;
  std::vector<uint8_t> has_quotas_;

  std::vector<int64_t> positions_;
  std::vector<int64_t> rows_;
  std::vector<float> distances_;
  CellNumbers numbers_;
  std::vector<Cell> cells_;
  std::vector<size_t> cells_of_;  // [n_candidates, n_columns]

  std::vector<size_t> list_;
  std::vector<std::vector<size_t>> lists_;  // under the first rules, 0 to all
  std::vector<State> states_;
  std::vector<uint64_t> pinned_;  // the last round that held it: not to be let go in the same
  std::vector<uint64_t> listed_;
  std::vector<Step> log_;
  size_t n_held_ = 0;
  uint64_t round_ = 0;

  std::vector<float> nearest_;  // distance to the nearest chosen among the first n_met
  std::vector<size_t> n_met_;
  std::vector<float> norms_;
  std::vector<float> scores_;
  std::vector<int64_t> chosen_rows_;
  std::vector<Bound> heap_;
};

void check_candidates(std::span<const int64_t> rows, std::span<const float> distances, size_t q, size_t n_rows) {
  float last = std::numeric_limits<float>::lowest();
  for (size_t i = 0; i < rows.size(); ++i) {
    if (rows[i] < -1 || (rows[i] >= 0 && static_cast<uint64_t>(rows[i]) >= n_rows)) {
      throw std::out_of_range("[diversify] rows holds " + std::to_string(rows[i]) + "; expected -1 or 0 <= row" +
                              (n_rows == any_row ? "" : " < " + std::to_string(n_rows)));
    }
    if (rows[i] == -1 || !(distances[i] < infinity)) continue;
    if (distances[i] < last) {
      char value[32];
      std::snprintf(value, sizeof value, "%g", static_cast<double>(distances[i]));
      throw std::invalid_argument("[diversify] distances of query " + std::to_string(q) + " falls to " + value +
                                  " at position " + std::to_string(i) +
                                  "; expected finite ones, nearest first; sort the candidates by distance");
    }
    last = distances[i];
  }
}

}  // namespace

void diversify(const Candidates& candidates, const TagRules& rules, const Mmr& mmr, size_t n_rows, size_t k,
               Diversified out) {
  const size_t m = candidates.n_candidates;
  const size_t n_rules = rules.n_columns + 2;
  const size_t n_quotas = rules.quotas.size();
  Slate slate(rules, mmr, m, k);
  for (size_t q = 0; q < candidates.n_queries; ++q) {
    const auto rows = candidates.rows.subspan(q * m, m);
    const auto distances = candidates.distances.subspan(q * m, m);
    check_candidates(rows, distances, q, n_rows);
    slate.start(rows, distances);
    slate.run(out.positions.subspan(q * k, k), out.given_up.subspan(q * n_rules, n_rules),
              out.moved.subspan(q * n_rules, n_rules), out.shortfall.subspan(q * n_quotas, n_quotas));
  }
}

}  // namespace likewise
