// Work in chunks over threads of the call's own, and the lock that searches and mutations share.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <shared_mutex>
#include <thread>
#include <vector>

namespace likewise {

// Calls work(first, last, worker) for chunks of [0, n); worker < n_threads. The first exception is thrown again here.
template <class Work>
void in_chunks(size_t n, size_t chunk, size_t n_threads, Work&& work) {
  if (n == 0) return;
  n_threads = std::clamp<size_t>((n + chunk - 1) / chunk, 1, std::max<size_t>(n_threads, 1));
  if (n_threads == 1) {
    work(size_t{0}, n, size_t{0});
    return;
  }
  std::atomic<size_t> next{0};
  std::atomic<bool> has_failed{false};
  std::exception_ptr failure;
  const auto run = [&](size_t worker) {
    try {
      for (size_t first = next.fetch_add(chunk); first < n && !has_failed; first = next.fetch_add(chunk)) {
        work(first, std::min(n, first + chunk), worker);
      }
    } catch (...) {
      if (!has_failed.exchange(true)) failure = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (size_t worker = 1; worker < n_threads; ++worker) others.emplace_back(run, worker);
  run(0);
  for (std::thread& other : others) other.join();
  if (failure) std::rethrow_exception(failure);
}

// A shared mutex whose writers wait for the readers that are in, not for those that come after them.
class FairMutex {
 public:
  void lock() {
    const std::lock_guard turn(turn_);
    mutex_.lock();
  }
  void unlock() { mutex_.unlock(); }
  void lock_shared() {
    {
      const std::lock_guard turn(turn_);
    }
    mutex_.lock_shared();
  }
  void unlock_shared() { mutex_.unlock_shared(); }

 private:
  std::mutex turn_;
  std::shared_mutex mutex_;
};

}  // namespace likewise
