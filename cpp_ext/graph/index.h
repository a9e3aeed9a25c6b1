// A graph index: quantised rows, their links, what was measured of them, and the choice between scan and graph.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "graph/linker.h"
#include "graph/parallel.h"
#include "graph/walk.h"
#include "scan.h"

namespace likewise {

// What one spread costs and finds, measured on rows that the graph had not seen, k = 10.
struct Operating {
  float spread;
  float n_expanded;  // rows whose links were followed, on average
  float recall;
  float recall_low;  // its lower bound at 95 % confidence, one-sided
};

// What a margin of the sign bounds finds when rows are scanned.
struct ScanOperating {
  float margin;
  float recall_low;
};

// What following one row's links and bounding one block of 32 rows cost, in signs read one by one.
struct alignas(8) Costs {  // read and written at once
  float hop;
  float block;
};

struct GraphSearch {
  std::span<const float> queries;  // [n_queries, dim]
  size_t n_queries;
  size_t k;
  float spread;                    // of a walk through the graph, with graph_margin
  float margin;                    // of a scan
  bool is_walk = false;            // never a scan, for measuring
  bool is_scan = false;            // never a walk, for measuring
  bool is_exact = false;           // every row by its 16-bit form
  const uint64_t* keep = nullptr;  // bitmap; null = all
  size_t n_keep_words = 0;         // rows beyond them are not kept
  size_t n_threads = 1;
};

enum class Plan : uint8_t { graph = 0, scan = 1, graph_then_scan = 2 };

// What a search did, one a query; empty spans are not filled.
struct GraphTrace {
  std::span<uint8_t> plans;
  std::span<int32_t> n_expanded;
};

// Searches may run at the same time as each other and as one mutation; mutations wait for each other.
class GraphIndex {
 public:
  // Packed: links are bounded by blocks of their signs, faster than by those of the rows, in nearly 2 KB more a row at
  // 384 dimensions.
  GraphIndex(size_t dim, Metric metric, uint64_t seed, const LinkOptions& options, bool is_packed);
  ~GraphIndex();

  // What progress throws ends the build; the index is then fit for nothing.
  // Rows held out are encoded, but neither linked nor live until they join: what the graph has not seen measures it.
  void build(const float* vectors, size_t n, size_t n_threads, const Progress& progress,
             std::span<const int64_t> held_out = {});
  // Links the rows that the build held out, and makes them live.
  void join(size_t n_threads);
  // Takes links from elsewhere: [n, n_links], negative = none; refined by the same choice of links.
  void build_from(const float* vectors, size_t n, const int32_t* links, size_t n_links, size_t n_threads,
                  const Progress& progress);

  void search(const GraphSearch& search, Neighbors out, const GraphTrace& trace) const;

  // Appends rows; returns the first one's number.
  size_t add(const float* vectors, size_t n, size_t n_threads);
  // Returns how many were there to be deleted. Throws std::out_of_range before anything changes.
  size_t remove(std::span<const int64_t> rows);
  // The live rows alone, renumbered in order, their links repaired; old_rows: the number each had here.
  std::unique_ptr<GraphIndex> compacted(size_t n_threads, std::vector<int64_t>& old_rows) const;
  // None of the rows, but what was learnt and measured of them: for rows of their kind.
  std::unique_ptr<GraphIndex> emptied() const;

  struct State {
    QuantizedRows::Arrays rows;
    std::span<const uint32_t> neighbors;  // [n, degree]
    std::span<const uint32_t> entries;
    std::span<const unsigned char> blocks;  // none, or [n, block_stride]
    std::span<const uint64_t> live;         // bitmap
    std::span<const Operating> table;
    std::span<const ScanOperating> scan_table;
  };
  // The memory is borrowed until the first mutation copies it. Sizes are the caller's to check; contents are not
  // trusted.
  void open(const State& state);
  // Of a file opened: what answers are ranked by is read from it, `fine` at `offset`, until the first mutation.
  void rank_from(int file, uint64_t offset);
  void load();          // copies what is borrowed into memory of its own, in huge pages where there are some
  State state() const;  // of an index that nobody mutates meanwhile

  size_t size() const;
  size_t n_live() const;
  size_t dim() const { return rows_.dim(); }
  size_t padded_dim() const { return rows_.padded_dim(); }
  size_t sign_stride() const { return rows_.sign_stride(); }
  size_t n_sign_blocks() const { return rows_.n_blocks(); }
  size_t sign_block_stride() const { return block_bytes(rows_.padded_dim()); }
  size_t degree() const { return options_.degree; }
  bool is_packed() const { return blocks_.stride() != 0; }
  size_t block_stride() const { return blocks_.stride(); }
  Metric metric() const { return rows_.metric(); }
  size_t owned_bytes() const;
  std::vector<Operating> table() const;
  void restore(size_t row, float* vector) const;

  // The spread that follows `effort` rows a query, or that reaches a recall; between and beyond what was measured by
  // interpolation.
  float spread_for_effort(float effort) const;
  float spread_for_recall(float recall) const;
  float recall_of(float spread) const;
  float margin_for_recall(float recall) const;

  Costs costs() const { return costs_; }
  void set_costs(Costs costs) { costs_ = costs; }
  // Measures them on this machine; searches plan by them from then on.
  Costs measure_costs();

  // Rows that live but cannot be reached from the entries.
  size_t n_unreachable() const;

 private:
  struct Scratch;
  class Lease;

  Graph graph(size_t n_rows) const;     // to link rows by
  Graph searched(size_t n_rows) const;  // to answer queries by
  std::vector<uint32_t> shuffled(size_t n) const;
  void link(std::span<const uint32_t> order, HugeArray<uint32_t>& links, size_t stride, Linker& linker,
            const Progress& progress);
  void settle(const HugeArray<uint32_t>& links, size_t stride, Linker& linker);
  void choose_entries();
  void pack_entries();
  void calibrate(std::span<const uint32_t> held_out, size_t n_threads);
  std::vector<float> recalls(const GraphSearch& search, std::span<const int64_t> truth,
                             std::span<int32_t> n_expanded) const;
  void finish_build(std::span<const uint32_t> order, size_t n_apart, Linker& linker, const Progress& progress);
  void join(std::span<const uint32_t> rows, Linker& linker);
  void pack(size_t n_threads);
  void apply_new(const LinkUpdates& updates, size_t n_new, size_t n_threads);
  void apply(const LinkUpdates& updates, size_t first, size_t n_threads);
  void search_some(GraphSearch search, size_t first, size_t last, Neighbors out, const GraphTrace& trace) const;
  void search_scan(const GraphSearch& search, const PreparedQuery& query, size_t n_keep, bool by_blocks,
                   Scratch& scratch) const;
  void answer(const GraphSearch& search, const PreparedQuery& query, const Shortlist& nearest, Scratch& scratch,
              size_t index, Neighbors out) const;
  void exact(const GraphSearch& search, const PreparedQuery& query, size_t index, Neighbors out) const;
  float expansion(float spread) const;
  Costs usual_costs() const;
  float scan_start() const;
  float scan_cost() const;
  bool is_cut() const;  // whether the table ends early, where a scan is cheaper

  LinkOptions options_;
  uint64_t seed_;
  QuantizedRows rows_;
  HugeArray<uint32_t> neighbors_;  // [n, degree]
  LinkBlocks blocks_;              // of all rows, where packed
  std::vector<uint32_t> entries_;
  std::vector<unsigned char> entry_blocks_;  // of the centre; empty unless packed
  std::vector<uint32_t> held_out_;           // that have not joined yet
  std::vector<uint64_t> live_;
  size_t n_live_ = 0;
  size_t n_rows_ = 0;  // visible to searches; more may be encoded
  std::vector<Operating> table_;
  std::vector<ScanOperating> scan_table_;

  std::atomic<Costs> costs_;

  mutable FairMutex mutex_;
  std::mutex writer_;
  mutable std::mutex pool_mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> pool_;
};

}  // namespace likewise
