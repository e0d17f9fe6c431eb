// The element types of the CUDA kernels. Whatever the type is, arithmetic and accumulation are in float.
#pragma once

enum mrb_scalar_type { MRB_FLOAT32 = 0, MRB_FLOAT16 = 1, MRB_BFLOAT16 = 2 };
