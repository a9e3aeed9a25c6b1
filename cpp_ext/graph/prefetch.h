// Memory that will be read soon. Whatever calls this and does nothing else has to be inlined as well: GCC takes a call
// of such a function for one without effect and drops it.
#pragma once

#include <cstddef>

namespace likewise {

[[gnu::always_inline]] inline void prefetch_bytes(const void* at, size_t n_bytes) {
  for (size_t line = 0; line < n_bytes; line += 64) __builtin_prefetch(static_cast<const char*>(at) + line);
}

}  // namespace likewise
