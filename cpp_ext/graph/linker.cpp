#include "graph/linker.h"

#include <algorithm>
#include <limits>

#include "graph/parallel.h"

namespace likewise {
namespace {

constexpr float build_margin = 0.5F;
constexpr float rounding = 0.97F;  // a list is in order as long as no distance is a smaller share of the one before
constexpr size_t most_taken_in = 4;
constexpr auto n_filling = static_cast<std::ptrdiff_t>(8);  // links of a link that may fill a list

bool is_kept(const uint64_t* keep, uint32_t row) {
  return keep == nullptr || (keep[row / word_bits] >> (row % word_bits) & 1) != 0;
}

std::span<const uint32_t> links_of(const Graph& graph, uint32_t row) {
  const uint32_t* first = graph.neighbors + static_cast<size_t>(row) * graph.stride;
  size_t n = 0;
  while (n < graph.stride && first[n] < graph.n_rows) ++n;
  return {first, n};
}

}  // namespace

Linker::Linker(const LinkOptions& options, size_t n_threads)
    : options_(options), n_threads_(std::max<size_t>(n_threads, 1)), workers_(n_threads_) {}

// Turns worker.rows into candidates: sorted by distance from row, without repeats and without row itself.
void Linker::rank(const Graph& graph, uint32_t row, Worker& worker) {
  std::vector<uint32_t>& rows = worker.rows;
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  rows.erase(std::remove(rows.begin(), rows.end(), row), rows.end());
  worker.wide.resize(graph.rows->padded_dim());
  worker.distances.resize(rows.size());
  worker.dots.resize(rows.size());
  graph.rows->widen(row, worker.wide.data());
  for (const uint32_t each : rows) graph.rows->prefetch_code(each);
  graph.rows->pair_distances(row, worker.wide.data(), rows.data(), rows.size(), worker.dots.data(),
                             worker.distances.data());
  worker.candidates.clear();
  for (size_t i = 0; i < rows.size(); ++i) worker.candidates.push_back(candidate_of(worker.distances[i], rows[i]));
  std::sort(worker.candidates.begin(), worker.candidates.end());
}

// Chooses links among the sorted worker.candidates.
void Linker::choose(const Graph& graph, Worker& worker, size_t most, bool fill) {
  std::vector<uint32_t>& rows = worker.rows;
  std::vector<float>& distances = worker.distances;
  const size_t n = worker.candidates.size();
  rows.resize(n);
  distances.resize(n);
  worker.pair_distances.resize(n);
  worker.dots.resize(n);
  worker.wide.resize(graph.rows->padded_dim());
  for (size_t i = 0; i < n; ++i) {
    rows[i] = row_of(worker.candidates[i]);
    distances[i] = distance_of(worker.candidates[i]);
  }
  worker.chosen.clear();
  worker.refused.clear();
  size_t n_open = n;
  size_t first = 0;
  while (first < n_open && worker.chosen.size() < most) {
    const uint32_t kept = rows[first++];
    worker.chosen.push_back(kept);
    if (worker.chosen.size() == most) break;
    graph.rows->widen(kept, worker.wide.data());
    const size_t n_left = n_open - first;
    graph.rows->pair_distances(kept, worker.wide.data(), rows.data() + first, n_left, worker.dots.data(),
                               worker.pair_distances.data());
    size_t open = first;
    for (size_t i = 0; i < n_left; ++i) {
      const size_t at = first + i;
      if (options_.occlusion * worker.pair_distances[i] <= distances[at]) {
        if (fill) worker.refused.push_back(rows[at]);
        continue;
      }
      rows[open] = rows[at];
      distances[open++] = distances[at];
    }
    n_open = open;
  }
  if (!fill) return;
  // The refused stand in the order of who refused them; the nearest fill what is left.
  for (size_t i = 0; i < n && worker.chosen.size() < most; ++i) {
    const uint32_t row = row_of(worker.candidates[i]);
    if (std::find(worker.refused.begin(), worker.refused.end(), row) != worker.refused.end()) {
      worker.chosen.push_back(row);
    }
  }
}

// Gives a full list one more link, as `choose` would of all of them, unless a link that is displaced had kept others
// out. A list that `choose` wrote holds the links chosen and then those that fill it, both in order, so that the new
// link alone is to be compared with them. Returns false where the list is another.
bool Linker::take_in(const Graph& graph, uint32_t row, uint32_t link, Worker& worker, uint32_t* list) {
  const size_t n = graph.stride;
  const QuantizedRows& rows = *graph.rows;
  worker.rows.assign(list, list + n);
  worker.rows.push_back(link);
  worker.distances.resize(n + 1);
  worker.pair_distances.resize(n + 1);
  worker.dots.resize(n + 1);
  worker.wide.resize(rows.padded_dim());
  for (const uint32_t each : worker.rows) rows.prefetch_code(each);
  rows.widen(row, worker.wide.data());
  rows.pair_distances(row, worker.wide.data(), worker.rows.data(), n + 1, worker.dots.data(), worker.distances.data());
  const std::vector<float>& distances = worker.distances;
  const auto order_ends = [&](size_t at) {
    while (at < n && distances[at] >= rounding * distances[at - 1]) ++at;
    return at;
  };
  const size_t n_chosen = order_ends(1);
  if (n_chosen < n && order_ends(n_chosen + 1) < n) return false;

  rows.widen(link, worker.wide.data());
  rows.pair_distances(link, worker.wide.data(), worker.rows.data(), n_chosen, worker.dots.data(),
                      worker.pair_distances.data());
  const Candidate own = candidate_of(distances[n], link);
  const auto candidate = [&](size_t i) { return candidate_of(distances[i], worker.rows[i]); };
  const auto between = [&](size_t i) { return options_.occlusion * worker.pair_distances[i]; };
  bool is_refused = false;
  for (size_t i = 0; i < n_chosen; ++i) is_refused |= candidate(i) < own && between(i) <= distances[n];
  worker.candidates.clear();
  worker.fill.clear();
  for (size_t i = 0; i < n; ++i) {
    const bool is_displaced = !is_refused && i < n_chosen && own < candidate(i) && between(i) <= distances[i];
    (i < n_chosen && !is_displaced ? worker.candidates : worker.fill).push_back(candidate(i));
  }
  (is_refused ? worker.fill : worker.candidates).push_back(own);
  std::sort(worker.candidates.begin(), worker.candidates.end());
  std::sort(worker.fill.begin(), worker.fill.end());
  worker.candidates.insert(worker.candidates.end(), worker.fill.begin(), worker.fill.end());
  for (size_t i = 0; i < n; ++i) list[i] = row_of(worker.candidates[i]);
  return true;
}

void Linker::write(const Worker& worker, size_t stride, uint32_t* list) {
  std::copy(worker.chosen.begin(), worker.chosen.end(), list);
  std::fill(list + worker.chosen.size(), list + stride, no_row);
}

LinkUpdates Linker::insert(const Graph& graph, std::span<const uint32_t> batch, const uint64_t* keep) {
  const size_t stride = graph.stride;
  const bool is_settled = stride == options_.degree;  // nobody will fill these lists later
  LinkUpdates updates;
  updates.rows.assign(batch.begin(), batch.end());
  updates.lists.assign(batch.size() * stride, no_row);
  const WalkLimits limits{options_.build_beam, options_.build_beam, std::numeric_limits<float>::infinity(),
                          std::numeric_limits<size_t>::max()};
  in_chunks(batch.size(), 16, n_threads_, [&](size_t first, size_t last, size_t index) {
    Worker& worker = workers_[index];
    for (size_t i = first; i < last; ++i) {
      graph.rows->prepare_row(batch[i], worker.query);
      graph.rows->add_planes(worker.query);
      worker.query.margin = build_margin;
      worker.walk.start(graph, worker.query, limits, keep);
      worker.walk.finish();
      const Shortlist& nearest = worker.walk.nearest();
      worker.candidates.clear();
      for (size_t j = 0; j < nearest.size(); ++j) {
        if (row_of(nearest[j]) != batch[i]) worker.candidates.push_back(nearest[j] & ~Candidate{1});
      }
      choose(graph, worker, options_.degree, is_settled);
      std::copy(worker.chosen.begin(), worker.chosen.end(), updates.lists.data() + i * stride);
    }
  });

  // Links back, by the row they start from.
  std::vector<uint64_t> back;
  for (size_t i = 0; i < batch.size(); ++i) {
    for (size_t j = 0; j < stride && updates.lists[i * stride + j] != no_row; ++j) {
      back.push_back((static_cast<uint64_t>(updates.lists[i * stride + j]) << 32) | batch[i]);
    }
  }
  std::sort(back.begin(), back.end());
  std::vector<size_t> starts;
  for (size_t i = 0; i < back.size(); ++i) {
    if (i != 0 && back[i] >> 32 == back[i - 1] >> 32) continue;
    starts.push_back(i);
    updates.rows.push_back(static_cast<uint32_t>(back[i] >> 32));
  }
  const size_t n_targets = starts.size();
  starts.push_back(back.size());
  updates.lists.resize(updates.rows.size() * stride, no_row);
  in_chunks(n_targets, 64, n_threads_, [&](size_t first, size_t last, size_t index) {
    Worker& worker = workers_[index];
    for (size_t i = first; i < last; ++i) {
      const uint32_t row = updates.rows[batch.size() + i];
      const std::span<const uint32_t> links = links_of(graph, row);
      worker.rows.assign(links.begin(), links.end());
      for (size_t j = starts[i]; j < starts[i + 1]; ++j) worker.rows.push_back(static_cast<uint32_t>(back[j]));
      uint32_t* list = updates.lists.data() + (batch.size() + i) * stride;
      if (worker.rows.size() <= stride) {
        std::copy(worker.rows.begin(), worker.rows.end(), list);
        continue;
      }
      const size_t n_new = starts[i + 1] - starts[i];
      if (is_settled && links.size() == stride && n_new <= most_taken_in) {
        std::copy(links.begin(), links.end(), list);
        bool is_taken = true;
        for (size_t j = starts[i]; is_taken && j < starts[i + 1]; ++j) {
          is_taken = take_in(graph, row, static_cast<uint32_t>(back[j]), worker, list);
        }
        if (is_taken) continue;
        worker.rows.assign(links.begin(), links.end());
        for (size_t j = starts[i]; j < starts[i + 1]; ++j) worker.rows.push_back(static_cast<uint32_t>(back[j]));
      }
      rank(graph, row, worker);
      choose(graph, worker, options_.degree, is_settled);
      write(worker, stride, list);
    }
  });
  return updates;
}

void Linker::settle(const Graph& graph, uint32_t row, size_t index, uint32_t* list) {
  Worker& worker = workers_[index];
  const std::span<const uint32_t> links = links_of(graph, row);
  worker.rows.assign(links.begin(), links.end());
  if (links.size() > options_.degree) {
    rank(graph, row, worker);
    choose(graph, worker, options_.degree, true);
    write(worker, options_.degree, list);
    return;
  }
  for (const uint32_t link : links) {
    // The nearest of theirs come first.
    const std::span<const uint32_t> theirs = links_of(graph, link);
    worker.rows.insert(worker.rows.end(), theirs.begin(),
                       theirs.begin() + std::min<std::ptrdiff_t>(std::ssize(theirs), n_filling));
  }
  rank(graph, row, worker);
  worker.chosen.assign(links.begin(), links.end());
  for (const Candidate candidate : worker.candidates) {
    if (worker.chosen.size() == options_.degree) break;
    if (std::find(links.begin(), links.end(), row_of(candidate)) == links.end()) {
      worker.chosen.push_back(row_of(candidate));
    }
  }
  write(worker, options_.degree, list);
}

void Linker::bridge(const Graph& graph, uint32_t row, const uint64_t* keep, size_t index, uint32_t* list) {
  Worker& worker = workers_[index];
  const std::span<const uint32_t> links = links_of(graph, row);
  worker.rows.clear();
  for (const uint32_t link : links) {
    if (is_kept(keep, link)) {
      worker.rows.push_back(link);
      continue;
    }
    for (const uint32_t theirs : links_of(graph, link)) {
      if (is_kept(keep, theirs)) worker.rows.push_back(theirs);
    }
  }
  rank(graph, row, worker);
  choose(graph, worker, options_.degree, true);
  write(worker, graph.stride, list);
}

std::vector<uint32_t> connect(const Graph& graph, uint32_t* neighbors, const uint64_t* keep) {
  constexpr int most_rounds = 16;
  std::vector<uint32_t> givers;
  std::vector<uint32_t> reached_from(graph.n_rows);
  for (int round = 0; round < most_rounds; ++round) {
    std::vector<uint64_t> reached(words_for(graph.n_rows));
    std::vector<uint32_t> queue;
    const auto reach = [&](uint32_t row, uint32_t from) {
      if (row >= graph.n_rows || (reached[row / word_bits] >> (row % word_bits) & 1) != 0) return;
      reached[row / word_bits] |= uint64_t{1} << (row % word_bits);
      reached_from[row] = from;
      queue.push_back(row);
    };
    const auto drain = [&](size_t from) {
      for (size_t i = from; i < queue.size(); ++i) {
        for (const uint32_t link : links_of(graph, queue[i])) reach(link, queue[i]);
      }
    };
    for (const uint32_t entry : graph.entries) reach(entry, no_row);
    drain(0);
    size_t n_lost = 0;
    PreparedQuery query;
    Walk walk;
    const WalkLimits limits{32, 128, std::numeric_limits<float>::infinity(), std::numeric_limits<size_t>::max()};
    for (uint32_t row = 0; row < graph.n_rows; ++row) {
      if (!is_kept(keep, row) || (reached[row / word_bits] >> (row % word_bits) & 1) != 0) continue;
      ++n_lost;
      graph.rows->prepare_row(row, query);
      graph.rows->add_planes(query);
      query.margin = build_margin;
      walk.start(graph, query, limits, keep);
      walk.finish();
      const Shortlist& nearest = walk.nearest();
      // The nearest reached row with room, or else one with a link by which its end was not reached.
      uint32_t giver = no_row;
      for (size_t i = 0; i < nearest.size(); ++i) {
        const uint32_t from = row_of(nearest[i]);
        if (from == row) continue;
        uint32_t* links = neighbors + static_cast<size_t>(from) * graph.stride;
        const size_t n_links = links_of(graph, from).size();
        size_t at = n_links;
        if (n_links == graph.stride) {
          for (at = n_links; at-- > 0;) {
            if (reached_from[links[at]] != from) break;
          }
          if (at > n_links) continue;
        }
        links[at] = row;
        giver = from;
        givers.push_back(from);
        break;
      }
      const size_t from = queue.size();
      reach(row, giver);
      drain(from);
    }
    if (n_lost == 0) break;
  }
  return givers;
}

}  // namespace likewise
