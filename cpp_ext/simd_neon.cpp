// NEON, which every AArch64 CPU has.
#include <arm_neon.h>

#include "simd_kernels.h"

namespace likewise {
namespace {

struct Neon {
  using reg = float32x4_t;
  static constexpr size_t lanes = 4;
  static constexpr int rows = 4;
  static constexpr int queries = 3;
  static constexpr int solo_rows = 4;

  static reg zero() { return vdupq_n_f32(0.0F); }
  static reg broadcast(float value) { return vdupq_n_f32(value); }
  static reg load(const float* p) { return vld1q_f32(p); }
  static reg load(const int8_t* p) {
    const int32_t bytes[4] = {p[0], p[1], p[2], p[3]};
    return vcvtq_f32_s32(vld1q_s32(bytes));
  }
  template <class T>
  static reg load(const T* p, size_t n) {
    float part[4] = {};
    for (size_t i = 0; i < n; ++i) part[i] = static_cast<float>(p[i]);
    return vld1q_f32(part);
  }
  static reg add(reg a, reg b) { return vaddq_f32(a, b); }
  static reg sub(reg a, reg b) { return vsubq_f32(a, b); }
  static reg fma(reg a, reg b, reg c) { return vfmaq_f32(c, a, b); }
  static float sum(reg a) { return vaddvq_f32(a); }

  using products = int32x4_t;
  static constexpr size_t n_codes = 8;
  static products zero_products() { return vdupq_n_s32(0); }
  static products add_products(products sums, const int16_t* query, const int8_t* codes) {
    const int16x8_t words = vmovl_s8(vld1_s8(codes));
    const int16x8_t steps = vld1q_s16(query);
    sums = vmlal_s16(sums, vget_low_s16(words), vget_low_s16(steps));
    return vmlal_high_s16(sums, words, steps);
  }
  static products add(products a, products b) { return vaddq_s32(a, b); }
  static int32_t sum(products a) { return vaddvq_s32(a); }
  static void sum_four(const products* a, int32_t* out) {
    vst1q_s32(out, vpaddq_s32(vpaddq_s32(a[0], a[1]), vpaddq_s32(a[2], a[3])));
  }

  static unsigned negative(const float* eight) {
    const uint32x4_t weights = {1, 2, 4, 8};
    const uint32x4_t low = vshrq_n_u32(vreinterpretq_u32_f32(vld1q_f32(eight)), 31);
    const uint32x4_t high = vshrq_n_u32(vreinterpretq_u32_f32(vld1q_f32(eight + 4)), 31);
    return vaddvq_u32(vmulq_u32(low, weights)) + (vaddvq_u32(vmulq_u32(high, weights)) << 4);
  }

  static void look_up(const uint8_t* tables, const unsigned char* bits, size_t n_pairs, uint16_t* sums) {
    const uint8x16_t low_half = vdupq_n_u8(15);
    uint16x8_t totals[4] = {vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0), vdupq_n_u16(0)};
    for (size_t pair = 0; pair < n_pairs; ++pair) {
      const uint8x16_t low = vld1q_u8(tables + 32 * pair);
      const uint8x16_t high = vld1q_u8(tables + 32 * pair + 16);
      for (size_t half = 0; half < 2; ++half) {
        const uint8x16_t codes = vld1q_u8(bits + 32 * pair + 16 * half);
        const uint8x16_t sum =
            vaddq_u8(vqtbl1q_u8(low, vandq_u8(codes, low_half)), vqtbl1q_u8(high, vshrq_n_u8(codes, 4)));
        totals[2 * half] = vaddw_u8(totals[2 * half], vget_low_u8(sum));
        totals[2 * half + 1] = vaddw_u8(totals[2 * half + 1], vget_high_u8(sum));
      }
    }
    for (size_t part = 0; part < 4; ++part) vst1q_u16(sums + 8 * part, totals[part]);
  }

  template <Operator op>
  static uint64_t passes(const float* values, float value) {
    const float32x4_t wanted = vdupq_n_f32(value);
    const uint32x4_t weights = {1, 2, 4, 8};
    uint64_t mask = 0;
    for (unsigned i = 0; i < 64; i += 4) {
      const float32x4_t have = vld1q_f32(values + i);
      uint32x4_t hit;
      if constexpr (op == Operator::less) hit = vcltq_f32(have, wanted);
      if constexpr (op == Operator::less_equal) hit = vcleq_f32(have, wanted);
      if constexpr (op == Operator::equal) hit = vceqq_f32(have, wanted);
      if constexpr (op == Operator::greater_equal) hit = vcgeq_f32(have, wanted);
      if constexpr (op == Operator::greater) hit = vcgtq_f32(have, wanted);
      if constexpr (op == Operator::not_equal) hit = vorrq_u32(vcltq_f32(have, wanted), vcgtq_f32(have, wanted));
      mask |= static_cast<uint64_t>(vaddvq_u32(vandq_u32(hit, weights))) << i;
    }
    return mask;
  }
  template <Operator op>
  static uint64_t passes(const double* values, double value) {
    const float64x2_t wanted = vdupq_n_f64(value);
    uint64_t mask = 0;
    for (unsigned i = 0; i < 64; i += 2) {
      const float64x2_t have = vld1q_f64(values + i);
      uint64x2_t hit;
      if constexpr (op == Operator::less) hit = vcltq_f64(have, wanted);
      if constexpr (op == Operator::less_equal) hit = vcleq_f64(have, wanted);
      if constexpr (op == Operator::equal) hit = vceqq_f64(have, wanted);
      if constexpr (op == Operator::greater_equal) hit = vcgeq_f64(have, wanted);
      if constexpr (op == Operator::greater) hit = vcgtq_f64(have, wanted);
      if constexpr (op == Operator::not_equal) hit = vorrq_u64(vcltq_f64(have, wanted), vcgtq_f64(have, wanted));
      mask |= pair(hit) << i;
    }
    return mask;
  }
  template <Operator op>
  static uint64_t passes(const int64_t* values, int64_t value) {
    const int64x2_t wanted = vdupq_n_s64(value);
    uint64_t mask = 0;
    for (unsigned i = 0; i < 64; i += 2) {
      const int64x2_t have = vld1q_s64(values + i);
      uint64x2_t hit;
      if constexpr (op == Operator::less) hit = vcltq_s64(have, wanted);
      if constexpr (op == Operator::less_equal) hit = vcleq_s64(have, wanted);
      if constexpr (op == Operator::equal || op == Operator::not_equal) hit = vceqq_s64(have, wanted);
      if constexpr (op == Operator::greater_equal) hit = vcgeq_s64(have, wanted);
      if constexpr (op == Operator::greater) hit = vcgtq_s64(have, wanted);
      mask |= pair(hit) << i;
    }
    return op == Operator::not_equal ? ~mask : mask;
  }
  static size_t count(uint64_t word) { return vaddv_u8(vcnt_u8(vcreate_u8(word))); }

 private:
  static uint64_t pair(uint64x2_t hit) { return (vgetq_lane_u64(hit, 0) & 1U) | (vgetq_lane_u64(hit, 1) & 2U); }
};

constexpr Simd table = make_simd<Neon>("neon");

}  // namespace

const Simd& neon_simd() { return table; }

}  // namespace likewise
