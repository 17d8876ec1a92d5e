// Strided copies: how rows are cut, joined and repeated, and how keys get into a cache.
#include "common.cuh"

namespace {

struct __align__(16) Floats {
    float x, y, z, w;
};

__device__ inline float added(float a, float b) { return a + b; }
__device__ inline Floats added(Floats a, Floats b) { return {a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w}; }

// What one step of i, j, k means on one side, in units.
struct Strides {
    u64 i, j, k;
};

// Units of all (i, j, k, e), the last fastest: i is what is left after division by the sizes of the others.
template <class Index, class Unit>
__device__ inline void copy_units(Unit* to, Strides to_strides, const Unit* from, Strides from_strides, Index j_size,
                                  Index k_size, Index len, Index count, u32 accumulate) {
    for (Index at = (Index)thread_index(); at < count; at += (Index)thread_count()) {
        Index row = at / len, e = at - row * len;
        Index outer = row / k_size, k = row - outer * k_size;
        Index i = outer / j_size, j = outer - i * j_size;
        Unit value = from[i * from_strides.i + j * from_strides.j + k * from_strides.k + e];
        Unit* place = to + (i * to_strides.i + j * to_strides.j + k * to_strides.k + e);
        *place = accumulate ? added(*place, value) : value;
    }
}

}  // namespace

// Numbers but `accumulate` count units. Divisions of 64 bits are slow and are left to what needs them: below 2^31 units no
// index of 32 bits wraps, as a grid has fewer threads.
#define COPY(name, Unit)                                                                                         \
    extern "C" __global__ void name(float* to, u64 to_offset, u64 to_i, u64 to_j, u64 to_k, const float* from,   \
                                    u64 from_offset, u64 from_i, u64 from_j, u64 from_k, u64 j_size, u64 k_size, \
                                    u64 len, u64 count, u32 accumulate) {                                        \
        Strides to_strides = {to_i, to_j, to_k}, from_strides = {from_i, from_j, from_k};                        \
        Unit* to_units = (Unit*)to + to_offset;                                                                  \
        const Unit* from_units = (const Unit*)from + from_offset;                                                \
        if (count >> 31)                                                                                         \
            copy_units<u64>(to_units, to_strides, from_units, from_strides, j_size, k_size, len, count,          \
                            accumulate);                                                                         \
        else                                                                                                     \
            copy_units<u32>(to_units, to_strides, from_units, from_strides, (u32)j_size, (u32)k_size, (u32)len,  \
                            (u32)count, accumulate);                                                             \
    }                                                                                                            \
    EXPORT(name)

COPY(copy_floats, float)
COPY(copy_fours, Floats)
