// The element types of the CUDA kernels. Whatever the type is, arithmetic and sums are in float (the sums of
// RoIPool's gradients in double).
#pragma once

enum mrb_scalar_type { MRB_FLOAT32 = 0, MRB_FLOAT16 = 1, MRB_BFLOAT16 = 2 };
