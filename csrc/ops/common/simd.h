// Inner loops over contiguous values, compiled once per instruction set; the loader picks the version.
//
// Only plain functions carry the attribute (the compiler does not clone templates and lambdas), so each loop is
// written once per scalar type by a macro in simd.cpp.
#pragma once

#include <cstdint>

// For arithmetic whose rounding may differ between machines (fused multiply-add). A comma inside of one name would make
// two versions, of which the loader takes the one for AVX2: without FMA, and with a call for every std::fma. "fma" has
// the 256-bit registers of AVX for floating-point numbers.
#define MRB_SIMD __attribute__((target_clones("avx512f", "fma", "default")))
// For arithmetic that must round the same everywhere: AVX2 without FMA has no instruction to fuse with.
#define MRB_SIMD_EXACT __attribute__((target_clones("avx2", "default")))

namespace mrb::simd {

// out[c] = sum over k of weights[k] * rows[k][c]; zero for count = 0.
void weighted_sum(float* out, const float* const* rows, const float* weights, int64_t count, int64_t channels);
void weighted_sum(double* out, const double* const* rows, const double* weights, int64_t count, int64_t channels);

// rows[k][c] += weights[k] * values[c]. The rows do not overlap.
void weighted_scatter(float* const* rows, const float* weights, int64_t count, const float* values, int64_t channels);
void weighted_scatter(double* const* rows, const double* weights, int64_t count, const double* values,
                      int64_t channels);

// The sum of a[c] * b[c].
float dot(const float* a, const float* b, int64_t channels);
double dot(const double* a, const double* b, int64_t channels);

// Where values[c] > best[c]: best[c] = values[c] and index[c] = position.
void keep_greater(float* best, int32_t* index, const float* values, int32_t position, int64_t channels);
void keep_greater(double* best, int32_t* index, const double* values, int32_t position, int64_t channels);

}  // namespace mrb::simd
