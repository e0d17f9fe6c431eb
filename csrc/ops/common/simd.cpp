#include "ops/common/simd.h"

#include <algorithm>

namespace mrb::simd {

// Four rows at a time, so that the output is read and written once for four multiplications.
#define MRB_DEFINE(T)                                                                                             \
  MRB_SIMD void weighted_sum(T* __restrict__ out, const T* const* rows, const T* weights, int64_t count,          \
                             int64_t channels) {                                                                  \
    int64_t k = 0;                                                                                                \
    if (count >= 4) {                                                                                             \
      const T *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];                                             \
      const T wa = weights[0], wb = weights[1], wc = weights[2], wd = weights[3];                                 \
      for (int64_t i = 0; i < channels; ++i) out[i] = wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];              \
      k = 4;                                                                                                      \
    } else {                                                                                                      \
      std::fill(out, out + channels, T(0));                                                                       \
    }                                                                                                             \
    for (; k + 4 <= count; k += 4) {                                                                              \
      const T *a = rows[k], *b = rows[k + 1], *c = rows[k + 2], *d = rows[k + 3];                                 \
      const T wa = weights[k], wb = weights[k + 1], wc = weights[k + 2], wd = weights[k + 3];                     \
      for (int64_t i = 0; i < channels; ++i) out[i] += wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];             \
    }                                                                                                             \
    for (; k < count; ++k) {                                                                                      \
      const T* a = rows[k];                                                                                       \
      const T wa = weights[k];                                                                                    \
      for (int64_t i = 0; i < channels; ++i) out[i] += wa * a[i];                                                 \
    }                                                                                                             \
  }                                                                                                               \
                                                                                                                  \
  MRB_SIMD void weighted_scatter(T* const* rows, const T* weights, int64_t count, const T* __restrict__ values,   \
                                 int64_t channels) {                                                              \
    int64_t k = 0;                                                                                                \
    for (; k + 4 <= count; k += 4) {                                                                              \
      T *__restrict__ a = rows[k], *__restrict__ b = rows[k + 1];                                                 \
      T *__restrict__ c = rows[k + 2], *__restrict__ d = rows[k + 3];                                             \
      const T wa = weights[k], wb = weights[k + 1], wc = weights[k + 2], wd = weights[k + 3];                     \
      for (int64_t i = 0; i < channels; ++i) {                                                                    \
        const T v = values[i];                                                                                    \
        a[i] += wa * v;                                                                                           \
        b[i] += wb * v;                                                                                           \
        c[i] += wc * v;                                                                                           \
        d[i] += wd * v;                                                                                           \
      }                                                                                                           \
    }                                                                                                             \
    for (; k < count; ++k) {                                                                                      \
      T* __restrict__ a = rows[k];                                                                                \
      const T wa = weights[k];                                                                                    \
      for (int64_t i = 0; i < channels; ++i) a[i] += wa * values[i];                                              \
    }                                                                                                             \
  }                                                                                                               \
                                                                                                                  \
  MRB_SIMD T dot(const T* a, const T* b, int64_t channels) {                                                      \
    /* Separate partial sums: the compiler may not reorder one sum, but it may keep sixteen side by side. */      \
    T partial[16] = {};                                                                                           \
    int64_t i = 0;                                                                                                \
    for (; i + 16 <= channels; i += 16) {                                                                         \
      for (int64_t k = 0; k < 16; ++k) partial[k] += a[i + k] * b[i + k];                                         \
    }                                                                                                             \
    T sum = 0;                                                                                                    \
    for (; i < channels; ++i) sum += a[i] * b[i];                                                                 \
    for (const T p : partial) sum += p;                                                                           \
    return sum;                                                                                                   \
  }                                                                                                               \
                                                                                                                  \
  MRB_SIMD_EXACT void keep_greater(T* __restrict__ best, int32_t* __restrict__ index, const T* values,            \
                                   int32_t position, int64_t channels) {                                          \
    for (int64_t i = 0; i < channels; ++i) {                                                                      \
      const bool greater = values[i] > best[i];                                                                   \
      best[i] = greater ? values[i] : best[i];                                                                    \
      index[i] = greater ? position : index[i];                                                                   \
    }                                                                                                             \
  }

MRB_DEFINE(float)
MRB_DEFINE(double)
#undef MRB_DEFINE

}  // namespace mrb::simd
