// Links rows to their neighbours: batches that are searched for in the graph as it stands, then applied at once, so
// that the result depends on the rows and their order and not on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "graph/walk.h"

namespace likewise {

struct LinkOptions {
  size_t degree = 32;       // links of a finished row
  size_t build_beam = 100;  // candidates a row chooses its links from
  float occlusion = 1.05F;  // a candidate c is dropped when a kept one k has occlusion * D(k, c) <= D(row, c)
};

// New link lists of some rows, to be written over the old ones.
struct LinkUpdates {
  std::vector<uint32_t> rows;
  std::vector<uint32_t> lists;  // [rows, stride]
};

// Called between batches, on the calling thread, with the number of rows done; may throw to cancel.
using Progress = std::function<void(size_t)>;

// Thread-safe as long as nobody writes to the graph meanwhile; one call at a time.
// Source: batches: Manohar et al., ParlayANN, PPoPP 2024; the choice of links: Toussaint, The relative neighbourhood
// graph, 1980, as in Malkov and Yashunin (HNSW, algorithm 4) and Subramanya et al. (DiskANN, algorithm 2).
class Linker {
 public:
  Linker(const LinkOptions& options, size_t n_threads);

  // What inserting `batch` changes. Rows of the batch are encoded but linked by nobody; `keep`: rows that may be linked
  // to, null = all.
  LinkUpdates insert(const Graph& graph, std::span<const uint32_t> batch, const uint64_t* keep);

  // The best `degree` links of row: of its own and, where they are too few, of its neighbours' neighbours.
  void settle(const Graph& graph, uint32_t row, size_t worker, uint32_t* list);

  // Repairs row's list after some it links to have gone: the links of those stand in for them.
  void bridge(const Graph& graph, uint32_t row, const uint64_t* keep, size_t worker, uint32_t* list);

  size_t n_threads() const { return n_threads_; }

 private:
  struct Worker {
    Walk walk;
    PreparedQuery query;
    std::vector<Candidate> candidates;
    std::vector<uint32_t> rows;
    std::vector<float> distances;
    std::vector<float> pair_distances;
    std::vector<int32_t> dots;
    std::vector<int16_t> wide;
    std::vector<uint32_t> chosen;
    std::vector<uint32_t> refused;
    std::vector<Candidate> fill;
  };

  void rank(const Graph& graph, uint32_t row, Worker& worker);
  void choose(const Graph& graph, Worker& worker, size_t most, bool fill);
  bool take_in(const Graph& graph, uint32_t row, uint32_t link, Worker& worker, uint32_t* list);
  static void write(const Worker& worker, size_t stride, uint32_t* list);

  LinkOptions options_;
  size_t n_threads_;
  std::vector<Worker> workers_;
};

// Makes every row that `keep` names reachable from the entries by giving the unreachable ones a link from a near
// reachable row. Returns the rows that gave one.
std::vector<uint32_t> connect(const Graph& graph, uint32_t* neighbors, const uint64_t* keep);

}  // namespace likewise
