// What each native test program is made of: claims that are counted, and the line that it ends with.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>

#include "simd.h"

namespace likewise {

inline std::atomic<size_t> n_checks = 0;

inline void check(bool holds, const char* claim, const char* file, int line) {
  ++n_checks;
  if (holds) return;
  std::fprintf(stderr, "%s:%d: %s\n", file, line, claim);
  std::exit(1);
}
#define CHECK(claim) check((claim), #claim, __FILE__, __LINE__)

template <class Error>
bool raises(const std::function<void()>& call, const std::string& part) {
  try {
    call();
  } catch (const Error& error) {
    return std::string(error.what()).find(part) != std::string::npos;
  }
  return false;
}

// The level that computed, and how many claims held.
inline int report() {
  std::printf("%s %zu\n", simd().name, n_checks.load());
  return 0;
}

}  // namespace likewise
