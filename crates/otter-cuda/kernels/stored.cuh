// Elements of matrices as they are stored: f32, or bits of IEEE 754 half precision or bfloat16, widened exactly.
#pragma once

#include "common.cuh"

#ifndef OTTER_EMULATE
#include <cuda_fp16.h>
#endif

// Each says what bits are kept, and how many elements 16 bytes hold.
struct StoredF32 {
    typedef float Bits;
    static const u32 VECTOR = 4;

    static __device__ inline float widen(float value) { return value; }
};

struct StoredF16 {
    typedef u16 Bits;
    static const u32 VECTOR = 8;

    static __device__ inline float widen(u16 bits) {
#ifdef OTTER_EMULATE
        // By the operations of the host: exponents count from 15 there and from 127 here, and multiplying corrects numbers
        // below the normal ones too.
        u32 sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
        u32 finite = __float_as_uint(__uint_as_float(magnitude) * __uint_as_float((127 + 127 - 15) << 23));
        return __uint_as_float((magnitude >= (0x7c00u << 13) ? magnitude | 0x7f800000u : finite) | sign);
#else
        return __half2float(__ushort_as_half(bits));
#endif
    }
};

struct StoredBf16 {
    typedef u16 Bits;
    static const u32 VECTOR = 8;

    static __device__ inline float widen(u16 bits) { return __uint_as_float((u32)bits << 16); }
};
