#include "graph/index.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

#include "graph/random.h"
#include "topk.h"

namespace likewise {
namespace {

constexpr size_t n_entries = 128;
constexpr size_t walks_at_once = 4;  // of one thread: the memory of one comes while another is looked at
constexpr size_t beam_size = 4096;
constexpr size_t n_spare = 24;
constexpr size_t scan_chunk = 64;
constexpr size_t encode_slice = 16;  // rows
constexpr size_t apply_slice = 64;   // lists
constexpr float probe_hops = 12;     // followed under a filter before scan and graph are compared
constexpr size_t tiny = 512;         // rows that are scanned rather than walked
constexpr size_t most_held_out = 256;
constexpr size_t calibrated_k = 10;
constexpr double most_hops_of_few = 128;         // measured even where a scan is cheaper
constexpr size_t calibrated_scans = 12'000'000;  // rows read for each margin
constexpr float spreads[] = {0.85F, 0.9F,  0.95F, 1.0F,  1.03F, 1.06F, 1.09F, 1.12F, 1.15F, 1.18F,
                             1.22F, 1.26F, 1.31F, 1.37F, 1.45F, 1.55F, 1.7F,  2.0F,  2.5F,  3.5F};
constexpr float margins[] = {0.25F, 0.5F, 0.75F, 1.0F, 1.25F, 1.5F, 2.0F, 2.5F, 3.0F};
constexpr float certain_margin = 6;
constexpr float row_margin = 0.5F;      // of a walk by the signs of rows
constexpr float block_margin = 0;       // by those of blocks, which err less
constexpr float filter_margin = 0.75F;  // more under a filter: far from the query distances lie closer together
constexpr float complete = 0.9995F;     // a recall beyond which nothing is left to measure

size_t n_held_out(size_t n) { return n < 2 * tiny ? 0 : std::min(most_held_out, n / 16); }

// Mean and its lower bound at 95 % confidence, one-sided.
std::pair<float, float> mean_and_low(const std::vector<float>& values) {
  const auto n = static_cast<double>(values.size());
  double sum = 0;
  double squares = 0;
  for (const float value : values) {
    sum += value;
    squares += static_cast<double>(value) * value;
  }
  const double mean = sum / n;
  const double error = std::sqrt(std::max(squares / n - mean * mean, 0.0) / n);
  return {static_cast<float>(mean), static_cast<float>(mean - 1.645 * error)};
}

}  // namespace

struct GraphIndex::Scratch {
  PreparedQuery queries[walks_at_once];
  Walk walks[walks_at_once];
  Shortlist nearest;
  std::vector<uint64_t> keep;
  std::vector<Neighbor> answers;
  std::vector<uint32_t> rows;
  std::vector<float> distances;
  std::vector<int32_t> dots;
  std::vector<int8_t> fine;
};

// A scratch of the pool for the length of a call.
class GraphIndex::Lease {
 public:
  explicit Lease(const GraphIndex& index) : index_(index) {
    const std::lock_guard lock(index.pool_mutex_);
    if (!index.pool_.empty()) {
      scratch_ = std::move(index.pool_.back());
      index.pool_.pop_back();
    }
    if (!scratch_) scratch_ = std::make_unique<Scratch>();
  }
  ~Lease() {
    const std::lock_guard lock(index_.pool_mutex_);
    index_.pool_.push_back(std::move(scratch_));
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  Scratch& operator*() { return *scratch_; }

 private:
  const GraphIndex& index_;
  std::unique_ptr<Scratch> scratch_;
};

GraphIndex::GraphIndex(size_t dim, Metric metric, uint64_t seed, const LinkOptions& options, bool is_packed)
    : options_(options), seed_(seed), rows_(dim, metric, seed) {
  if (is_packed) blocks_ = LinkBlocks(rows_.padded_dim(), options.degree);
  costs_ = usual_costs();
}

GraphIndex::~GraphIndex() = default;

Graph GraphIndex::graph(size_t n_rows) const { return {&rows_, neighbors_.data(), options_.degree, n_rows, entries_}; }

Graph GraphIndex::searched(size_t n_rows) const {
  Graph graph = this->graph(n_rows);
  if (is_packed()) {
    graph.blocks = &blocks_;
    graph.entry_blocks = entry_blocks_;
  }
  return graph;
}

size_t GraphIndex::size() const {
  const std::shared_lock lock(mutex_);
  return n_rows_;
}

size_t GraphIndex::n_live() const {
  const std::shared_lock lock(mutex_);
  return n_live_;
}

size_t GraphIndex::owned_bytes() const {
  const std::shared_lock lock(mutex_);
  return rows_.owned_bytes() + neighbors_.owned_bytes() + blocks_.owned_bytes() + live_.size() * sizeof(uint64_t);
}

std::vector<Operating> GraphIndex::table() const {
  const std::shared_lock lock(mutex_);
  return table_;
}

void GraphIndex::restore(size_t row, float* vector) const {
  const std::shared_lock lock(mutex_);
  rows_.restore(row, vector);
}

// ---- building

// All rows in a random order; the last ones are held out as queries to measure by.
std::vector<uint32_t> GraphIndex::shuffled(size_t n) const {
  std::vector<uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0U);
  Random random(seed_);
  for (size_t i = n; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

void GraphIndex::build(const float* vectors, size_t n, size_t n_threads, const Progress& progress,
                       std::span<const int64_t> held_out) {
  rows_.learn(vectors, n);
  rows_.reserve(n);
  rows_.append(vectors, n, n_threads);
  std::vector<uint32_t> order = shuffled(n);
  std::vector<bool> is_held_out(n);
  for (const int64_t row : held_out) is_held_out[static_cast<size_t>(row)] = true;
  const auto first = std::stable_partition(order.begin(), order.end(), [&](uint32_t row) { return !is_held_out[row]; });
  held_out_.assign(first, order.end());
  const size_t n_apart = held_out_.empty() ? n_held_out(n) : held_out_.size();
  Linker linker(options_, n_threads);
  const size_t stride = options_.degree * 3 / 2;
  HugeArray<uint32_t> links;
  links.resize(n * stride);
  std::fill_n(links.writable(), n * stride, no_row);
  link({order.data(), n - n_apart}, links, stride, linker, progress);
  settle(links, stride, linker);
  finish_build(order, n_apart, linker, progress);
}

void GraphIndex::build_from(const float* vectors, size_t n, const int32_t* links, size_t n_links, size_t n_threads,
                            const Progress& progress) {
  rows_.learn(vectors, n);
  rows_.reserve(n);
  rows_.append(vectors, n, n_threads);
  const std::vector<uint32_t> order = shuffled(n);
  std::vector<bool> is_held_out(n);
  for (size_t i = n - n_held_out(n); i < n; ++i) is_held_out[order[i]] = true;
  Linker linker(options_, n_threads);
  HugeArray<uint32_t> given;
  given.resize(n * n_links);
  for (size_t row = 0; row < n; ++row) {
    uint32_t* list = given.writable() + row * n_links;
    size_t at = 0;
    for (size_t i = 0; i < n_links && !is_held_out[row]; ++i) {
      const int32_t link = links[row * n_links + i];
      if (link < 0 || static_cast<size_t>(link) >= n || static_cast<size_t>(link) == row) continue;
      if (!is_held_out[static_cast<size_t>(link)]) list[at++] = static_cast<uint32_t>(link);
    }
    std::fill(list + at, list + n_links, no_row);
  }
  settle(given, n_links, linker);
  finish_build(order, n_held_out(n), linker, progress);
}

void GraphIndex::link(std::span<const uint32_t> order, HugeArray<uint32_t>& links, size_t stride, Linker& linker,
                      const Progress& progress) {
  size_t done = std::min<size_t>(1, order.size());
  while (done < order.size()) {
    // A batch sees nothing of itself: it stays a small part of what is linked.
    const size_t batch =
        std::min({std::max<size_t>(1, done / 2), std::max<size_t>(1, order.size() / 50), order.size() - done});
    // Entries are the first rows of a random order.
    const Graph graph{&rows_, links.data(), stride, rows_.size(), {order.data(), std::min(done, n_entries)}};
    const LinkUpdates updates = linker.insert(graph, {order.data() + done, batch}, nullptr);
    for (size_t i = 0; i < updates.rows.size(); ++i) {
      std::copy_n(updates.lists.data() + i * stride, stride,
                  links.writable() + static_cast<size_t>(updates.rows[i]) * stride);
    }
    done += batch;
    if (progress) progress(done);
  }
}

void GraphIndex::settle(const HugeArray<uint32_t>& links, size_t stride, Linker& linker) {
  const size_t n = rows_.size();
  neighbors_.resize(n * options_.degree);
  const Graph graph{&rows_, links.data(), stride, n, {}};
  in_chunks(n, 256, linker.n_threads(), [&](size_t first, size_t last, size_t worker) {
    for (size_t row = first; row < last; ++row) {
      linker.settle(graph, static_cast<uint32_t>(row), worker, neighbors_.writable() + row * options_.degree);
    }
  });
}

// The graph holds all but the last n_apart rows of the order: they are the queries it is measured by, then join it,
// unless the caller held them out.
void GraphIndex::finish_build(std::span<const uint32_t> order, size_t n_apart, Linker& linker,
                              const Progress& progress) {
  const size_t n = order.size();
  const std::span<const uint32_t> held_out = order.subspan(n - n_apart);
  n_rows_ = n;
  live_.assign(words_for(n), 0);
  for (size_t w = 0; w < live_.size(); ++w) live_[w] = live_bits(w, n);
  for (const uint32_t row : held_out) live_[row / word_bits] &= ~(uint64_t{1} << (row % word_bits));
  n_live_ = n - held_out.size();
  choose_entries();
  connect(graph(n), neighbors_.writable(), live_.data());
  pack(linker.n_threads());
  if (n_held_out(n) != 0 && n_live_ >= tiny) {
    calibrate(held_out.first(std::min(n_apart, most_held_out)), linker.n_threads());
  }
  if (held_out_.empty()) join(held_out, linker);
  if (progress) progress(n - held_out_.size());
}

void GraphIndex::join(size_t n_threads) {
  const std::lock_guard writer(writer_);
  Linker linker(options_, n_threads);
  join(held_out_, linker);
  held_out_.clear();
}

void GraphIndex::join(std::span<const uint32_t> rows, Linker& linker) {
  if (rows.empty()) return;
  for (size_t done = 0; done < rows.size();) {
    const std::span<const uint32_t> batch =
        rows.subspan(done, std::min(rows.size() - done, std::max<size_t>(1, n_live_ / 8)));
    LinkUpdates updates;
    if (n_live_ != 0) updates = linker.insert(graph(n_rows_), batch, live_.data());
    {
      const std::unique_lock lock(mutex_);
      neighbors_.own();
      blocks_.own();
    }
    apply(updates, 0, linker.n_threads());
    const std::unique_lock lock(mutex_);
    for (const uint32_t row : batch) {
      live_[row / word_bits] |= uint64_t{1} << (row % word_bits);
      if (entries_.size() < n_entries) entries_.push_back(row);
    }
    pack_entries();
    n_live_ += batch.size();
    done += batch.size();
  }
  const std::unique_lock lock(mutex_);
  const std::vector<uint32_t> changed =
      connect(graph(n_rows_), neighbors_.writable(), n_live_ == n_rows_ ? nullptr : live_.data());
  if (!is_packed()) return;
  std::vector<float> gap;
  for (const uint32_t row : changed) {
    const uint32_t* links = neighbors_.data() + static_cast<size_t>(row) * options_.degree;
    blocks_.encode(rows_, row, links, gap, blocks_.writable(row));
  }
}

void GraphIndex::choose_entries() {
  entries_.clear();
  Random random(seed_ + 1);
  std::vector<uint32_t> live;
  for_each_row(live_, n_rows_, 0, live_.size(), [&](int64_t row) { live.push_back(static_cast<uint32_t>(row)); });
  const size_t n = std::min(n_entries, live.size());
  for (size_t i = 0; i < n; ++i) {
    std::swap(live[i], live[i + random.below(live.size() - i)]);
    entries_.push_back(live[i]);
  }
  pack_entries();
}

// As if the entries were links of the centre. Needs the lock, or nobody who reads.
void GraphIndex::pack_entries() {
  if (!is_packed()) return;
  const size_t stride = link_block_bytes(rows_.padded_dim());
  const size_t n_blocks = (entries_.size() + block_rows - 1) / block_rows;
  entry_blocks_.resize(n_blocks * stride);
  const std::vector<float> centre(rows_.padded_dim());
  const std::span<const uint32_t> entries = entries_;
  for (size_t i = 0; i < n_blocks; ++i) {
    const size_t first = i * block_rows;
    encode_block(rows_, centre.data(), 0, entries.subspan(first, std::min(block_rows, entries.size() - first)),
                 entry_blocks_.data() + i * stride);
  }
}

// Each query's recall among the true nearest.
std::vector<float> GraphIndex::recalls(const GraphSearch& search, std::span<const int64_t> truth,
                                       std::span<int32_t> n_expanded) const {
  const size_t k = search.k;
  std::vector<int64_t> found(search.n_queries * k);
  std::vector<float> distances(search.n_queries * k);
  this->search(search, {found, distances}, {{}, n_expanded});
  std::vector<float> out(search.n_queries);
  for (size_t i = 0; i < search.n_queries; ++i) {
    const std::span<const int64_t> wanted = truth.subspan(i * k, k);
    size_t hits = 0;
    for (size_t j = 0; j < k; ++j) hits += std::ranges::find(wanted, found[i * k + j]) != wanted.end() ? 1 : 0;
    out[i] = static_cast<float>(hits) / static_cast<float>(k);
  }
  return out;
}

void GraphIndex::calibrate(std::span<const uint32_t> held_out, size_t n_threads) {
  const size_t dim = rows_.dim();
  const size_t n = held_out.size();
  const size_t k = calibrated_k;
  std::vector<float> queries(n * dim);
  for (size_t i = 0; i < n; ++i) rows_.restore(held_out[i], queries.data() + i * dim);
  std::vector<int64_t> truth(n * k);
  std::vector<float> distances(n * k);
  GraphSearch request{queries, n, k, spreads[0], margins[0]};
  request.n_threads = n_threads;
  // So far below its estimate no sign bound hides a row.
  request.margin = certain_margin;
  request.spread = std::numeric_limits<float>::max();
  search(request, {truth, distances}, {});
  table_.clear();
  scan_table_.clear();
  std::vector<int32_t> n_expanded(n);
  request.is_walk = true;
  for (const float spread : spreads) {
    request.spread = spread;
    const auto [mean, low] = mean_and_low(recalls(request, truth, n_expanded));
    const double expanded = std::accumulate(n_expanded.begin(), n_expanded.end(), 0.0) / static_cast<double>(n);
    table_.push_back({spread, static_cast<float>(expanded), mean, low});
    // Beyond this a scan is cheaper, and as good, unless many rows are added later.
    if (mean > complete || (expanded > most_hops_of_few && 2 * expanded * costs_.load().hop > scan_cost())) break;
  }

  // A scan reads every row: fewer queries will do.
  request.is_walk = false;
  request.spread = std::numeric_limits<float>::max();
  request.n_queries = std::min(n, std::max<size_t>(32, calibrated_scans / n_rows_));
  for (const float margin : margins) {
    request.margin = margin;
    const auto [mean, low] = mean_and_low(recalls(request, truth, {}));
    scan_table_.push_back({margin, low});
    if (mean > complete) break;
  }
}

float GraphIndex::spread_for_effort(float effort) const {
  const std::shared_lock lock(mutex_);
  if (table_.empty()) return 1.2F + effort / 1000;
  if (effort <= table_.front().n_expanded) return table_.front().spread;
  const bool is_scan_cheaper = effort * costs_.load().hop > scan_cost();
  if (effort > table_.back().n_expanded && (is_cut() || is_scan_cheaper)) return std::numeric_limits<float>::max();
  for (size_t i = 1; i < table_.size(); ++i) {
    const Operating& low = table_[i - 1];
    const Operating& high = table_[i];
    if (effort > high.n_expanded && i + 1 < table_.size()) continue;
    const float span = std::log(std::max(high.n_expanded, low.n_expanded * 1.001F) / low.n_expanded);
    return low.spread + (high.spread - low.spread) * std::log(effort / low.n_expanded) / span;
  }
  return table_.back().spread;
}

float GraphIndex::spread_for_recall(float recall) const {
  const std::shared_lock lock(mutex_);
  if (table_.empty()) return 1.3F;
  if (recall <= table_.front().recall_low) return table_.front().spread;
  for (size_t i = 1; i < table_.size(); ++i) {
    const Operating& low = table_[i - 1];
    const Operating& high = table_[i];
    if (recall > high.recall_low || high.recall_low <= low.recall_low) continue;
    return low.spread + (high.spread - low.spread) * (recall - low.recall_low) / (high.recall_low - low.recall_low);
  }
  return is_cut() ? std::numeric_limits<float>::max() : table_.back().spread;
}

bool GraphIndex::is_cut() const { return table_.size() < std::size(spreads) && !(table_.back().recall > complete); }

float GraphIndex::recall_of(float spread) const {
  const std::shared_lock lock(mutex_);
  if (table_.empty()) return 0.95F;
  if (spread <= table_.front().spread) return table_.front().recall_low;
  for (size_t i = 1; i < table_.size(); ++i) {
    const Operating& low = table_[i - 1];
    const Operating& high = table_[i];
    if (spread > high.spread) continue;
    return low.recall_low + (high.recall_low - low.recall_low) * (spread - low.spread) / (high.spread - low.spread);
  }
  return is_cut() ? 1 : table_.back().recall_low;
}

float GraphIndex::margin_for_recall(float recall) const {
  const std::shared_lock lock(mutex_);
  for (const ScanOperating& each : scan_table_) {
    if (each.recall_low >= recall) return each.margin;
  }
  return scan_table_.empty() ? margins[std::size(margins) - 3] : scan_table_.back().margin;
}

// As measured with 25 to 2,048 dimensions on one core of a server (AVX2, 32 MB of cache). A sign takes the longer to
// read the longer a row is, and so does a hop, until the blocks of links are cut.
Costs GraphIndex::usual_costs() const {
  const auto padded = static_cast<float>(rows_.padded_dim());
  const float share = is_packed() ? static_cast<float>(n_link_signs(rows_.padded_dim())) / padded : 1;
  return {50 * std::sqrt(share), 6};
}

// What a scan costs beyond its signs, to prepare and to rank, more than a walk does beyond its hops.
float GraphIndex::scan_start() const { return is_packed() ? 1000 : 500; }

// What a scan of all rows costs, in signs read one by one; without a lock.
float GraphIndex::scan_cost() const {
  return scan_start() +
         std::min(static_cast<float>(n_live_), static_cast<float>(rows_.n_blocks()) * costs_.load().block);
}

// How many rows a search of this spread follows; without a lock.
float GraphIndex::expansion(float spread) const {
  if (table_.empty()) return 64 * std::max(1.0F, spread / 1.3F);
  for (const Operating& each : table_) {
    if (each.spread >= spread) return each.n_expanded;
  }
  return table_.back().n_expanded * std::max(1.0F, spread / table_.back().spread);
}

// ---- searching

void GraphIndex::search(const GraphSearch& search, Neighbors out, const GraphTrace& trace) const {
  const size_t chunk = search.n_threads > 1 ? 2 * walks_at_once : search.n_queries;
  in_chunks(search.n_queries, chunk, search.n_threads,
            [&](size_t first, size_t last, size_t) { search_some(search, first, last, out, trace); });
}

void GraphIndex::search_some(GraphSearch search, size_t first, size_t last, Neighbors out,
                             const GraphTrace& trace) const {
  const std::shared_lock lock(mutex_);
  Lease lease(*this);
  Scratch& scratch = *lease;
  const size_t n = n_rows_;
  const size_t dim = rows_.dim();

  // What may be answered: live, and asked for.
  const bool is_filtered = search.keep != nullptr;
  if (is_filtered) search.margin += filter_margin;
  size_t n_keep = n_live_;
  if (is_filtered) {
    const size_t n_words = words_for(n);
    if (n_live_ != n || search.n_keep_words < n_words) {
      scratch.keep.assign(search.keep, search.keep + std::min(search.n_keep_words, n_words));
      scratch.keep.resize(n_words);
      intersect(scratch.keep, {live_.data(), n_words});
      search.keep = scratch.keep.data();
    }
    n_keep = count({search.keep, n_words}, n);
  } else if (n_live_ != n) {
    search.keep = live_.data();
  }

  const size_t k = std::min(search.k, n_keep);
  // What a scan costs, in signs read one by one: where many follow each other they are read in blocks.
  size_t n_blocks = rows_.n_blocks();
  if (search.keep != nullptr) {
    n_blocks = 0;
    for (size_t w = 0; w < words_for(n); ++w) {
      const uint64_t word = search.keep[w];
      n_blocks += static_cast<size_t>((word & 0xffffffff) != 0) + static_cast<size_t>(word >> 32 != 0);
    }
  }
  const Costs costs = costs_;
  const float block_scans = static_cast<float>(n_blocks) * costs.block;
  const bool by_blocks = block_scans < static_cast<float>(n_keep);
  // Under a filter a walk ranks as much as a scan does, and few of its hops find anything.
  const float n_scans = std::min(static_cast<float>(n_keep), block_scans) + (is_filtered ? 0 : scan_start());
  const float hops = expansion(search.spread);
  // Under a filter, the share of rows that pass where the query lies is not the share of all: a short walk tells.
  const bool by_graph = !search.is_exact && !search.is_scan &&
                        (search.is_walk || (n_keep > tiny && k < n_keep / 4 &&
                                            (is_filtered ? 4 * probe_hops : hops) * costs.hop < n_scans));
  // The spread was measured by the distance of the tenth: by a nearer one a walk would stop too early.
  const size_t n_nearest = std::max(k, std::min(calibrated_k, n_keep));
  WalkLimits limits{n_nearest, std::max(beam_size, 2 * k), search.spread, std::numeric_limits<size_t>::max()};
  // A walk that has cost two scans ends in one: among equal rows there is no end.
  const auto cost_of_scan = static_cast<size_t>(n_scans / costs.hop);
  if (!search.is_walk) limits.max_expanded = is_filtered ? static_cast<size_t>(probe_hops) : 2 * cost_of_scan + 1;
  const auto walk_on = [&scratch](size_t width) {
    for (size_t n_open = width; n_open > 0;) {
      n_open = 0;
      for (size_t i = 0; i < width; ++i) n_open += scratch.walks[i].advance() ? 1 : 0;
    }
  };

  for (size_t at = first; at < last; at += walks_at_once) {
    const size_t width = std::min(walks_at_once, last - at);
    for (size_t i = 0; i < width; ++i) {
      PreparedQuery& query = scratch.queries[i];
      rows_.prepare(search.queries.data() + (at + i) * dim, query);
      if (!by_graph) continue;
      query.margin = is_packed() ? block_margin : row_margin;
      is_packed() ? rows_.add_tables(query, n_link_signs(rows_.padded_dim())) : rows_.add_planes(query);
      scratch.walks[i].start(searched(n), query, limits, search.keep);
    }
    if (by_graph) {
      walk_on(width);
      for (size_t i = 0; is_filtered && i < width; ++i) {
        Walk& walk = scratch.walks[i];
        if (!walk.was_cut()) continue;
        const float share = walk.kept_share(static_cast<float>(n_keep) / static_cast<float>(n));
        if (hops / share * costs.hop < n_scans) walk.resume(cost_of_scan);
      }
      walk_on(width);
    }
    for (size_t i = 0; i < width; ++i) {
      PreparedQuery& query = scratch.queries[i];
      const Walk& walk = scratch.walks[i];
      const bool is_walked = by_graph && !walk.was_cut() && walk.nearest().size() >= k;
      if (search.is_exact) {
        exact(search, query, at + i, out);
      } else if (is_walked) {
        answer(search, query, walk.nearest(), scratch, at + i, out);
      } else {
        query.margin = search.margin;
        by_blocks ? rows_.add_tables(query, rows_.padded_dim()) : rows_.add_planes(query);
        search_scan(search, query, n_keep, by_blocks, scratch);
        answer(search, query, scratch.nearest, scratch, at + i, out);
      }
      if (!trace.plans.empty()) {
        trace.plans[at + i] = static_cast<uint8_t>(is_walked  ? Plan::graph
                                                   : by_graph ? Plan::graph_then_scan
                                                              : Plan::scan);
      }
      if (!trace.n_expanded.empty()) trace.n_expanded[at + i] = by_graph ? static_cast<int32_t>(walk.n_expanded()) : 0;
    }
  }
}

// Signs of all rows asked for, codes of those that may be among the nearest; into scratch.nearest.
void GraphIndex::search_scan(const GraphSearch& search, const PreparedQuery& query, size_t n_keep, bool by_blocks,
                             Scratch& scratch) const {
  const size_t k = std::min(search.k, n_keep);
  Shortlist& nearest = scratch.nearest;
  nearest.reset(k + n_spare);
  scratch.rows.resize(3 * scan_chunk);
  scratch.distances.resize(scan_chunk);
  scratch.dots.resize(scan_chunk);
  uint32_t* likely = scratch.rows.data() + 2 * scan_chunk;
  size_t n_likely = 0;
  float limit = std::numeric_limits<float>::infinity();
  // The likely rows of the piece before: their codes have had time to come.
  const auto score = [&] {
    rows_.distances(query, likely, n_likely, scratch.dots.data(), scratch.distances.data());
    for (size_t i = 0; i < n_likely; ++i) {
      if (!(scratch.distances[i] < limit)) continue;
      nearest.insert(candidate_of(scratch.distances[i], likely[i]));
      // Candidates at the edge are kept for the re-ranking too.
      if (nearest.size() >= k + n_spare / 4) limit = distance_of(nearest[k + n_spare / 4 - 1]);
    }
    n_likely = 0;
  };
  float bounds[scan_chunk];
  const size_t n_words = words_for(n_rows_);

  if (by_blocks) {
    static_assert(scan_chunk == word_bits && word_bits == 2 * block_rows);
    const auto is_below = simd().compare_f32[static_cast<size_t>(Operator::less)];
    std::fill_n(bounds, scan_chunk, std::numeric_limits<float>::infinity());
    for (size_t w = 0; w < n_words; ++w) {
      const uint64_t asked = live_bits(w, n_rows_) & (search.keep == nullptr ? ~uint64_t{0} : search.keep[w]);
      if (asked == 0) continue;
      rows_.block_bounds(query, 2 * w, bounds);
      if (2 * w + 1 < rows_.n_blocks()) rows_.block_bounds(query, 2 * w + 1, bounds + block_rows);
      uint64_t passing = asked;
      is_below(bounds, limit, &passing, 1);
      score();
      for (; passing != 0; passing &= passing - 1) {
        const auto row = static_cast<uint32_t>(w * word_bits + static_cast<size_t>(std::countr_zero(passing)));
        rows_.prefetch_code(row);
        likely[n_likely++] = row;
      }
    }
    score();
    return;
  }

  uint32_t* pieces[2] = {scratch.rows.data(), scratch.rows.data() + scan_chunk};
  size_t n_pieces[2] = {0, 0};
  const auto bound = [&](const uint32_t* rows, size_t n) {
    rows_.bounds(query, rows, n, bounds);
    score();
    for (size_t i = 0; i < n; ++i) {
      likely[n_likely] = rows[i];
      if (!(bounds[i] < limit)) continue;
      rows_.prefetch_code(rows[i]);
      ++n_likely;
    }
  };
  size_t turn = 0;
  const auto push = [&](int64_t row) {
    const auto each = static_cast<uint32_t>(row);
    rows_.prefetch_sign(each);
    pieces[turn][n_pieces[turn]++] = each;
    if (n_pieces[turn] != scan_chunk) return;
    turn ^= 1;
    bound(pieces[turn], n_pieces[turn]);
    n_pieces[turn] = 0;
  };
  if (search.keep == nullptr) {
    for (size_t row = 0; row < n_rows_; ++row) push(static_cast<int64_t>(row));
  } else {
    for_each_row({search.keep, n_words}, n_rows_, 0, n_words, push);
  }
  bound(pieces[turn ^ 1], n_pieces[turn ^ 1]);
  bound(pieces[turn], n_pieces[turn]);
  score();
}

// The candidates that can be among the k nearest, by their 16-bit form.
void GraphIndex::answer(const GraphSearch& search, const PreparedQuery& query, const Shortlist& nearest,
                        Scratch& scratch, size_t index, Neighbors out) const {
  const size_t n = std::min(nearest.size(), search.k + n_spare);
  size_t n_likely = n;
  if (n > search.k) {
    const uint32_t kth = row_of(nearest[search.k - 1]);
    const float limit = distance_of(nearest[search.k - 1]) + 2 * rows_.error(query, kth);
    for (n_likely = search.k; n_likely < n && distance_of(nearest[n_likely]) <= limit; ++n_likely) {
    }
  }
  for (size_t i = 0; i < n_likely; ++i) rows_.prefetch_fine(row_of(nearest[i]));
  scratch.answers.clear();
  scratch.fine.resize(rows_.padded_dim());
  for (size_t i = 0; i < n_likely; ++i) {
    const uint32_t row = row_of(nearest[i]);
    const int8_t* fine = rows_.fetch_fine(row, scratch.fine.data());
    const Neighbor neighbor{rows_.answer(query, row, fine), static_cast<int64_t>(row)};
    if (nearer(neighbor, no_neighbor)) scratch.answers.push_back(neighbor);  // not the NaN of a damaged file
  }
  std::sort(scratch.answers.begin(), scratch.answers.end(), nearer);
  write_sorted({scratch.answers.data(), std::min(scratch.answers.size(), search.k)},
               out.rows.subspan(index * search.k, search.k), out.distances.subspan(index * search.k, search.k));
}

void GraphIndex::exact(const GraphSearch& search, const PreparedQuery& query, size_t index, Neighbors out) const {
  TopK best(search.k);
  const auto look = [&](int64_t row) {
    const Neighbor neighbor{rows_.answer(query, static_cast<uint32_t>(row)), row};
    if (best.admits(neighbor)) best.push(neighbor);
  };
  if (search.keep == nullptr) {
    for (size_t row = 0; row < n_rows_; ++row) look(static_cast<int64_t>(row));
  } else {
    for_each_row({search.keep, words_for(n_rows_)}, n_rows_, 0, words_for(n_rows_), look);
  }
  best.finish(out.rows.subspan(index * search.k, search.k), out.distances.subspan(index * search.k, search.k));
}

// ---- mutations

void GraphIndex::pack(size_t n_threads) {
  if (!is_packed()) return;
  HugeArray<unsigned char> blocks;
  blocks.resize(n_rows_ * blocks_.stride());
  std::vector<std::vector<float>> gaps(std::max<size_t>(n_threads, 1));
  in_chunks(n_rows_, 64, n_threads, [&](size_t first, size_t last, size_t worker) {
    for (size_t row = first; row < last; ++row) {
      blocks_.encode(rows_, static_cast<uint32_t>(row), neighbors_.data() + row * options_.degree, gaps[worker],
                     blocks.writable() + row * blocks_.stride());
    }
  });
  blocks_.assign(std::move(blocks));
}

// Writes the lists of rows that no search can meet yet. Needs memory of its own for them.
void GraphIndex::apply_new(const LinkUpdates& updates, size_t n_new, size_t n_threads) {
  const size_t degree = options_.degree;
  std::vector<std::vector<float>> gaps(std::max<size_t>(n_threads, 1));
  in_chunks(n_new, encode_slice, n_threads, [&](size_t first, size_t last, size_t worker) {
    for (size_t i = first; i < last; ++i) {
      const uint32_t row = updates.rows[i];
      const uint32_t* list = updates.lists.data() + i * degree;
      std::copy_n(list, degree, neighbors_.writable() + static_cast<size_t>(row) * degree);
      if (is_packed()) blocks_.encode(rows_, row, list, gaps[worker], blocks_.writable(row));
    }
  });
}

// Writes lists over those of rows that are searched. Their blocks are made beside the lock, which is held for so many
// lists at a time: what is copied lies in the cache.
void GraphIndex::apply(const LinkUpdates& updates, size_t first, size_t n_threads) {
  const size_t degree = options_.degree;
  const size_t stride = blocks_.stride();
  const size_t slice = apply_slice * std::max<size_t>(n_threads, 1);
  const size_t end = updates.rows.size();
  std::vector<std::vector<float>> gaps(std::max<size_t>(n_threads, 1));
  std::vector<unsigned char> blocks(std::min(slice, end - std::min(first, end)) * stride);
  for (; first < end; first += slice) {
    const size_t last = std::min(first + slice, end);
    if (is_packed()) {
      in_chunks(last - first, apply_slice, n_threads, [&](size_t begin, size_t stop, size_t worker) {
        for (size_t i = begin; i < stop; ++i) {
          const uint32_t row = updates.rows[first + i];
          const HeldLinks held{{neighbors_.data() + static_cast<size_t>(row) * degree, degree}, blocks_.of(row)};
          blocks_.encode(rows_, row, updates.lists.data() + (first + i) * degree, gaps[worker],
                         blocks.data() + i * stride, held);
        }
      });
    }
    const std::unique_lock lock(mutex_);
    for (size_t i = first; i < last; ++i) {
      const uint32_t row = updates.rows[i];
      std::copy_n(updates.lists.data() + i * degree, degree, neighbors_.writable() + static_cast<size_t>(row) * degree);
      if (stride != 0) std::copy_n(blocks.data() + (i - first) * stride, stride, blocks_.writable(row));
    }
  }
}

size_t GraphIndex::add(const float* vectors, size_t n, size_t n_threads) {
  const std::lock_guard writer(writer_);
  const size_t first = n_rows_;
  Linker linker(options_, n_threads);
  size_t done = 0;
  while (done < n) {
    const size_t batch = std::min({n - done, std::max<size_t>(1, n_rows_ / 8), size_t{256}});
    const size_t start = n_rows_;
    // Searches wait for a lock as long as a slice takes.
    for (size_t encoded = 0; encoded < batch; encoded += encode_slice) {
      const size_t slice = std::min(batch - encoded, encode_slice);
      const std::unique_lock lock(mutex_);
      if (!rows_.is_learnt()) rows_.learn(vectors, n);
      rows_.append(vectors + (done + encoded) * rows_.dim(), slice, n_threads);
    }
    {
      const std::unique_lock lock(mutex_);
      neighbors_.own();
      neighbors_.resize(rows_.size() * options_.degree);
      blocks_.resize(rows_.size());
      std::fill_n(neighbors_.writable() + start * options_.degree, batch * options_.degree, no_row);
      if (live_.size() < words_for(rows_.size())) live_.resize(words_for(rows_.size()));
    }
    std::vector<uint32_t> rows(batch);
    std::iota(rows.begin(), rows.end(), static_cast<uint32_t>(start));
    LinkUpdates updates;
    // Where few rows live, the deleted ones hold the graph together.
    const bool is_live_enough = n_live_ != n_rows_ && n_live_ > n_rows_ / 2;
    if (start != 0) updates = linker.insert(graph(rows_.size()), rows, is_live_enough ? live_.data() : nullptr);
    // The new rows, which stand first, so that no list ever leads to a row that is not there; then those that lead to
    // them.
    const size_t n_new = std::min(batch, updates.rows.size());
    apply_new(updates, n_new, n_threads);
    {
      const std::unique_lock lock(mutex_);
      for (const uint32_t row : rows) live_[row / word_bits] |= uint64_t{1} << (row % word_bits);
      n_live_ += batch;
      n_rows_ += batch;
      if (entries_.size() < n_entries) {
        entries_.push_back(rows.front());
        pack_entries();
      }
    }
    apply(updates, n_new, n_threads);
    done += batch;
  }
  return first;
}

size_t GraphIndex::remove(std::span<const int64_t> rows) {
  const std::lock_guard writer(writer_);
  for (const int64_t row : rows) {
    if (row < 0 || static_cast<size_t>(row) >= n_rows_) throw std::out_of_range(std::to_string(row));
  }
  const std::unique_lock lock(mutex_);
  const size_t before = n_live_;
  for (const int64_t row : rows) {
    uint64_t& word = live_[static_cast<size_t>(row) / word_bits];
    const uint64_t bit = uint64_t{1} << (static_cast<size_t>(row) % word_bits);
    if ((word & bit) != 0) --n_live_;
    word &= ~bit;
  }
  return before - n_live_;
}

std::unique_ptr<GraphIndex> GraphIndex::compacted(size_t n_threads, std::vector<int64_t>& old_rows) const {
  const std::shared_lock lock(mutex_);
  auto out = std::make_unique<GraphIndex>(rows_.dim(), rows_.metric(), seed_, options_, is_packed());
  const size_t degree = options_.degree;
  old_rows.clear();
  for_each_row(live_, n_rows_, 0, live_.size(), [&](int64_t row) { old_rows.push_back(row); });
  std::vector<uint32_t> new_rows(n_rows_, no_row);
  for (size_t i = 0; i < old_rows.size(); ++i) new_rows[static_cast<size_t>(old_rows[i])] = static_cast<uint32_t>(i);

  const size_t n = old_rows.size();
  out->rows_.take(rows_, old_rows);
  out->neighbors_.resize(n * degree);
  Linker linker(options_, n_threads);
  const Graph before = graph(n_rows_);
  in_chunks(n, 256, n_threads, [&](size_t first, size_t last, size_t worker) {
    for (size_t i = first; i < last; ++i) {
      const auto row = static_cast<uint32_t>(old_rows[i]);
      const uint32_t* links = neighbors_.data() + static_cast<size_t>(row) * degree;
      uint32_t* list = out->neighbors_.writable() + i * degree;
      bool is_whole = true;
      size_t n_links = 0;
      for (; n_links < degree && links[n_links] < n_rows_; ++n_links) is_whole &= new_rows[links[n_links]] != no_row;
      if (is_whole) {
        std::copy_n(links, n_links, list);
        std::fill(list + n_links, list + degree, no_row);
      } else {
        linker.bridge(before, row, live_.data(), worker, list);
      }
      for (size_t j = 0; j < degree && list[j] != no_row; ++j) list[j] = new_rows[list[j]];
    }
  });
  out->n_rows_ = out->n_live_ = n;
  out->live_.assign(words_for(n), 0);
  for (size_t w = 0; w < out->live_.size(); ++w) out->live_[w] = live_bits(w, n);
  out->table_ = table_;
  out->scan_table_ = scan_table_;
  out->costs_ = costs_.load();
  out->choose_entries();
  connect(out->graph(n), out->neighbors_.writable(), nullptr);
  out->pack(n_threads);
  return out;
}

std::unique_ptr<GraphIndex> GraphIndex::emptied() const {
  const std::shared_lock lock(mutex_);
  auto out = std::make_unique<GraphIndex>(rows_.dim(), rows_.metric(), seed_, options_, is_packed());
  out->rows_.learn_from(rows_);
  out->table_ = table_;
  out->scan_table_ = scan_table_;
  out->costs_ = costs_.load();
  return out;
}

Costs GraphIndex::measure_costs() {
  constexpr size_t n_queries = 32;
  constexpr int repeats = 3;
  const size_t n = size();
  if (n_live() < 4 * tiny) return costs_;
  std::vector<float> queries(n_queries * rows_.dim());
  Random random(seed_ + 2);
  for (size_t i = 0; i < n_queries; ++i) restore(random.below(n), queries.data() + i * rows_.dim());
  std::vector<int64_t> rows(n_queries * calibrated_k);
  std::vector<float> distances(n_queries * calibrated_k);
  std::vector<int32_t> n_expanded(n_queries);
  const auto seconds = [&](const GraphSearch& request) {
    double best = std::numeric_limits<double>::infinity();
    for (int i = 0; i < repeats; ++i) {
      const auto start = std::chrono::steady_clock::now();
      search(request, {rows, distances}, {{}, n_expanded});
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
  };
  GraphSearch request{queries, n_queries, calibrated_k, spreads[0], row_margin};
  // What begins and ends a search falls out of the difference of a long and a short one.
  request.is_walk = true;
  const double briefly = seconds(request);
  const auto hops = [&] { return std::accumulate(n_expanded.begin(), n_expanded.end(), 0.0); };
  const double few_hops = hops();
  request.spread = std::clamp(spread_for_recall(0.99F), 1.1F, 2.0F);
  const double walked = seconds(request);
  const double many_hops = hops();

  request.is_walk = false;
  request.is_scan = true;
  std::vector<uint64_t> keep(words_for(n));
  request.keep = keep.data();
  request.n_keep_words = keep.size();
  const auto scan = [&](size_t first, size_t step) {
    std::ranges::fill(keep, 0);
    size_t n_kept = 0;
    for (size_t row = first; row < n; row += step, ++n_kept) keep[row / word_bits] |= uint64_t{1} << (row % word_bits);
    return std::pair{seconds(request), static_cast<double>(n_kept)};
  };
  // So far apart that signs are read one by one; then all of a quarter of the blocks, and of all.
  const size_t step = std::max<size_t>(8, n / 20'000);
  const auto [apart, n_apart] = scan(0, step);
  const auto [farther, n_farther] = scan(0, 4 * step);
  const auto [few_blocks, n_few] = scan(n - n / 4, 1);
  const auto [all_blocks, n_all] = scan(0, 1);
  const double sign = (apart - farther) / (n_apart - n_farther) / n_queries;
  const double hop = (walked - briefly) / std::max(many_hops - few_hops, 1.0);
  const double block = (all_blocks - few_blocks) / (n_all - n_few) * block_rows / n_queries;
  const auto within = [](double measured, float usual) {  // of few rows the clock says little
    return measured > 0 ? std::clamp(static_cast<float>(measured), usual / 4, 4 * usual) : usual;
  };
  const Costs usual = usual_costs();
  if (sign > 0) costs_ = Costs{within(hop / sign, usual.hop), within(block / sign, usual.block)};
  return costs_;
}

size_t GraphIndex::n_unreachable() const {
  const std::shared_lock lock(mutex_);
  std::vector<bool> reached(n_rows_);
  std::vector<uint32_t> queue;
  const auto reach = [&](uint32_t row) {
    if (row >= n_rows_ || reached[row]) return;
    reached[row] = true;
    queue.push_back(row);
  };
  for (const uint32_t entry : entries_) reach(entry);
  for (size_t i = 0; i < queue.size(); ++i) {
    const uint32_t* links = neighbors_.data() + static_cast<size_t>(queue[i]) * options_.degree;
    for (size_t j = 0; j < options_.degree && links[j] < n_rows_; ++j) reach(links[j]);
  }
  size_t n = 0;
  for_each_row(live_, n_rows_, 0, live_.size(), [&](int64_t row) { n += reached[static_cast<size_t>(row)] ? 0 : 1; });
  return n;
}

// ---- files

void GraphIndex::open(const State& state) {
  rows_.borrow(state.rows);
  neighbors_.borrow(state.neighbors);
  if (is_packed()) blocks_.borrow(state.blocks);
  entries_.assign(state.entries.begin(), state.entries.end());
  live_.assign(state.live.begin(), state.live.end());
  table_.assign(state.table.begin(), state.table.end());
  scan_table_.assign(state.scan_table.begin(), state.scan_table.end());
  pack_entries();
  n_rows_ = rows_.size();
  n_live_ = count(live_, n_rows_);
}

void GraphIndex::rank_from(int file, uint64_t offset) {
  const std::lock_guard writer(writer_);
  const std::unique_lock lock(mutex_);
  rows_.rank_from(file, offset);
}

void GraphIndex::load() {
  const std::lock_guard writer(writer_);
  const std::unique_lock lock(mutex_);
  rows_.load();
  neighbors_.own();
  blocks_.own();
}

GraphIndex::State GraphIndex::state() const {
  return {rows_.arrays(), neighbors_.span(), entries_, blocks_.span(), live_, table_, scan_table_};
}

}  // namespace likewise
