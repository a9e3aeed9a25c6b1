// Damaged indexes, chosen by libFuzzer: each input is a list of edits to the arrays of a sound index, which is then
// opened, asked and changed.
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <vector>

#include "graph/index.h"
#include "graph_case.h"

namespace {

using namespace likewise;

GraphCase sound(size_t n, size_t dim, Metric metric, bool is_packed) {
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  std::vector<float> vectors(n * dim);
  for (float& value : vectors) value = normal(generator);
  GraphIndex index(dim, metric, 7, {8, 16, 1}, is_packed);
  index.build(vectors.data(), n, 1, {});
  GraphCase out(index);
  const Operating table[] = {{1, 2, 0.5F, 0.4F}, {1.3F, 9, 0.9F, 0.8F}, {2, 30, 0.99F, 0.98F}};
  out.set_tables(table);
  return out;
}

constexpr float specials[] = {std::numeric_limits<float>::quiet_NaN(),
                              std::numeric_limits<float>::infinity(),
                              -std::numeric_limits<float>::infinity(),
                              0.0F,
                              -1.0F,
                              std::numeric_limits<float>::max(),
                              std::numeric_limits<float>::lowest(),
                              std::numeric_limits<float>::denorm_min()};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const GraphCase cases[] = {sound(40, 3, Metric::ip, true), sound(90, 70, Metric::l2, true),
                                    sound(66, 9, Metric::cosine, false), sound(130, 5, Metric::ip, false)};
  if (size < 4) return 0;
  GraphCase damaged = cases[data[0] % std::size(cases)];
  const float longest[] = {1, std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::max()};
  if (data[1] % 4 != 0) damaged.set_longest(longest[data[1] % 4 - 1]);
  // An edit: array, place, byte; from 128 on the array's number says that a float is written, or a run of bytes.
  for (size_t at = 4; at + 4 <= size; at += 4) {
    const std::span<unsigned char> bytes = damaged.bytes(data[at] % GraphCase::n_arrays);
    if (bytes.empty()) continue;
    const size_t place = (data[at + 1] | static_cast<size_t>(data[at + 2]) << 8) * bytes.size() >> 16;
    const uint8_t value = data[at + 3];
    if (data[at] < 128) {
      bytes[place] = value;
    } else if (data[at] < 200 && bytes.size() >= sizeof(float)) {
      const float& special = specials[value % std::size(specials)];
      std::memcpy(bytes.data() + std::min(place / 4 * 4, bytes.size() - sizeof(float)), &special, sizeof(special));
    } else {
      std::memset(bytes.data() + place, value, bytes.size() - place);
    }
  }
  std::vector<float> queries(3 * damaged.dim());
  for (size_t i = 0; i < damaged.dim(); ++i) {
    queries[i] = static_cast<float>(i % 7) - 3;
    queries[damaged.dim() + i] = data[2] % 2 == 0 ? 1e15F : 1e-30F;
  }
  damaged.exercise(queries, data[2] | static_cast<uint32_t>(data[3]) << 8);
  return 0;
}
