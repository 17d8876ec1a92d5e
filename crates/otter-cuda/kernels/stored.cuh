// Elements as matrices are stored (f32, f16, bf16), four at a time, and how they become f32: exactly.
#pragma once

#include "common.cuh"

// Before a loop that a GPU must not run as one: what its turns index would not stay in registers.
#ifdef OTTER_EMULATE
#include "../emulation/wmma_on_host.h"
#define UNROLL
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define UNROLL _Pragma("unroll")
#endif

namespace {

struct __align__(16) FourFloats {
    float x, y, z, w;
};

// Four elements of 16 bits, the first in the low half.
struct __align__(8) FourHalves {
    u32 low, high;
};

__device__ inline float float_of_f16(u32 bits) {
#ifdef OTTER_EMULATE
    // Exponents count from 15 there and from 127 here; multiplying corrects numbers below the normal ones too.
    u32 sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7fffu) << 13;
    u32 finite = __float_as_uint(__uint_as_float(magnitude) * __uint_as_float((127 + 127 - 15) << 23));
    return __uint_as_float((magnitude >= (0x7c00u << 13) ? magnitude | 0x7f800000u : finite) | sign);
#else
    return __half2float(__ushort_as_half((u16)bits));
#endif
}

// Two numbers rounded to bfloat16 (to the nearest, of two equally near to the even one), the first in the lower half.
__device__ inline u32 rounded(float low, float high) {
#ifdef OTTER_EMULATE
    return __float2bfloat16_rn(low).bits | (u32)__float2bfloat16_rn(high).bits << 16;
#else
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return (u32)__bfloat16_as_ushort(pair.x) | (u32)__bfloat16_as_ushort(pair.y) << 16;
#endif
}

// A kind of element: how one is stored, how many 16 bytes hold, how four that lie on a boundary of four are loaded, and what
// they are.
struct StoredF32 {
    typedef float Element;
    typedef FourFloats Four;
    static const u32 VECTOR = 4;

    static __device__ inline float widen(Element element) { return element; }
    static __device__ inline Four four(Element a, Element b, Element c, Element d) { return {a, b, c, d}; }
    static __device__ inline FourFloats widen(Four four) { return four; }
};

struct StoredF16 {
    typedef u16 Element;
    typedef FourHalves Four;
    static const u32 VECTOR = 8;

    static __device__ inline float widen(Element bits) { return float_of_f16(bits); }
    static __device__ inline Four four(Element a, Element b, Element c, Element d) {
        return {a | (u32)b << 16, c | (u32)d << 16};
    }
    static __device__ inline FourFloats widen(Four four) {
        return {float_of_f16(four.low & 0xffff), float_of_f16(four.low >> 16), float_of_f16(four.high & 0xffff),
                float_of_f16(four.high >> 16)};
    }
};

struct StoredBf16 {
    typedef u16 Element;
    typedef FourHalves Four;
    static const u32 VECTOR = 8;

    static __device__ inline float widen(Element bits) { return __uint_as_float((u32)bits << 16); }
    static __device__ inline Four four(Element a, Element b, Element c, Element d) { return StoredF16::four(a, b, c, d); }
    static __device__ inline FourFloats widen(Four four) {
        return {__uint_as_float(four.low << 16), __uint_as_float(four.low & 0xffff0000u), __uint_as_float(four.high << 16),
                __uint_as_float(four.high & 0xffff0000u)};
    }
};

// Four elements of a row from `column` on. Where rows are no whole fours nothing lies on their boundaries, and what is past the
// end of the row is zero.
template <class Stored, bool FOURS>
__device__ inline typename Stored::Four load_four(const typename Stored::Element* row, u32 column, u32 width) {
    if constexpr (FOURS) {
        return *(const typename Stored::Four*)(row + column);
    } else {
        typename Stored::Element elements[4];
        UNROLL for (u32 i = 0; i < 4; i++) elements[i] = column + i < width ? row[column + i] : 0;
        return Stored::four(elements[0], elements[1], elements[2], elements[3]);
    }
}

}  // namespace
