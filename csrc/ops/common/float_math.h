// exp and log as straight arithmetic, so that loops over them become vector code; within 2 units in the last place.
// The double versions are the library's.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define MRB_INLINE __attribute__((always_inline)) inline

namespace mrb::math {

// 2^n * e^r with |r| <= ln(2) / 2. Arguments beyond the range of normal numbers give its ends.
MRB_INLINE float exp(float x) {
  x = x > 88.37f ? 88.37f : x;
  x = x < -87.33f ? -87.33f : x;
  const float shifted = x * 1.44269504f + 12582912.f;  // 1.5 * 2^23: rounds to the nearest integer
  const float n = shifted - 12582912.f;
  const float r = (x - n * 0.693145752f) - n * 1.42860677e-6f;  // ln(2) in two parts
  float p = 1.f / 5040;
  p = p * r + 1.f / 720;
  p = p * r + 1.f / 120;
  p = p * r + 1.f / 24;
  p = p * r + 1.f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  const float power = n > -126.f ? n : -126.f;  // also of nan, which no integer can be
  const int32_t bits = (static_cast<int32_t>(power) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return p * scale;
}

// log(m) + e * ln(2) with m around 1, by the series of the inverse hyperbolic tangent. For normal positive arguments.
MRB_INLINE float log(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  int32_t exponent = (bits - 0x3f3504f3) >> 23;  // mantissa between sqrt(1/2) and sqrt(2)
  bits -= exponent * (1 << 23);
  float m;
  std::memcpy(&m, &bits, sizeof m);
  const float s = (m - 1.f) / (m + 1.f), s2 = s * s;
  float p = 1.f / 9;
  p = p * s2 + 1.f / 7;
  p = p * s2 + 1.f / 5;
  p = p * s2 + 1.f / 3;
  p = p * s2 + 1.f;
  return 2.f * s * p + static_cast<float>(exponent) * 0.693147181f;
}

MRB_INLINE double exp(double x) { return std::exp(x); }
MRB_INLINE double log(double x) { return std::log(x); }

}  // namespace mrb::math
