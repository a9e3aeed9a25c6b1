// Plain C++ at the ABI's floor: four sums side by side, which a compiler may turn into baseline vectors.
#include <bit>

#include "simd_kernels.h"

namespace likewise {
namespace {

struct Scalar {
  struct reg {
    float lane[4];
  };
  static constexpr size_t lanes = 4;
  static constexpr int rows = 2;
  static constexpr int queries = 2;
  static constexpr int solo_rows = 2;

  static reg zero() { return {}; }
  static reg broadcast(float value) { return {{value, value, value, value}}; }
  template <class T>
  static reg load(const T* p) {
    return {{static_cast<float>(p[0]), static_cast<float>(p[1]), static_cast<float>(p[2]), static_cast<float>(p[3])}};
  }
  template <class T>
  static reg load(const T* p, size_t n) {
    reg out{};
    for (size_t i = 0; i < n; ++i) out.lane[i] = static_cast<float>(p[i]);
    return out;
  }
  static reg add(reg a, reg b) {
    for (size_t i = 0; i < lanes; ++i) a.lane[i] += b.lane[i];
    return a;
  }
  static reg sub(reg a, reg b) {
    for (size_t i = 0; i < lanes; ++i) a.lane[i] -= b.lane[i];
    return a;
  }
  static reg fma(reg a, reg b, reg c) {
    for (size_t i = 0; i < lanes; ++i) c.lane[i] += a.lane[i] * b.lane[i];
    return c;
  }
  static float sum(reg a) { return (a.lane[0] + a.lane[2]) + (a.lane[1] + a.lane[3]); }

  using products = int32_t;
  static constexpr size_t n_codes = 64;
  static products zero_products() { return 0; }
  static products add_products(products sum, const int16_t* query, const int8_t* codes) {
    for (size_t i = 0; i < n_codes; ++i) sum += static_cast<int32_t>(query[i]) * codes[i];
    return sum;
  }
  static products add(products a, products b) { return a + b; }
  static int32_t sum(products a) { return a; }
  static void sum_four(const products* a, int32_t* out) {
    for (size_t i = 0; i < 4; ++i) out[i] = a[i];
  }

  static unsigned negative(const float* eight) {
    unsigned bits = 0;
    for (unsigned i = 0; i < 8; ++i) bits |= static_cast<unsigned>(std::bit_cast<uint32_t>(eight[i]) >> 31) << i;
    return bits;
  }

  static void look_up(const uint8_t* tables, const unsigned char* bits, size_t n_pairs, uint16_t* sums) {
    for (size_t row = 0; row < block_rows; ++row) sums[row] = 0;
    for (size_t pair = 0; pair < n_pairs; ++pair) {
      const uint8_t* low = tables + 32 * pair;
      const unsigned char* codes = bits + block_rows * pair;
      for (size_t row = 0; row < block_rows; ++row) {
        sums[row] = static_cast<uint16_t>(sums[row] + low[codes[row] & 15] + low[16 + (codes[row] >> 4)]);
      }
    }
  }

  template <Operator op, class T>
  static bool holds(T a, T b) {
    if constexpr (op == Operator::less) return a < b;
    if constexpr (op == Operator::less_equal) return a <= b;
    if constexpr (op == Operator::equal) return a == b;
    if constexpr (op == Operator::greater_equal) return a >= b;
    if constexpr (op == Operator::greater) return a > b;
    if constexpr (op == Operator::not_equal) return a < b || a > b;
  }
  template <Operator op, class T>
  static uint64_t passes(const T* values, T value) {
    uint64_t mask = 0;
    for (size_t i = 0; i < 64; ++i) mask |= static_cast<uint64_t>(holds<op>(values[i], value)) << i;
    return mask;
  }
  static size_t count(uint64_t word) { return static_cast<size_t>(std::popcount(word)); }
};

constexpr Simd table = make_simd<Scalar>("scalar");

}  // namespace

const Simd& scalar_simd() { return table; }

}  // namespace likewise
