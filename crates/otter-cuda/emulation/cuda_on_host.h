// Enough of CUDA's device language to run kernels on the host, for tests: blocks one after the other, the threads of a block
// as coroutines that change at barriers and shuffles, a warp as far as it can before the next. The order is fixed, so results
// are the same in every run; a barrier that only some threads reach, and a shuffle that lanes leave out, end the process with a
// message.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
// Blocks run one at a time, so one copy serves them all. What a block does not write, it must not read: see `launch`.
#define __shared__ static

struct dim3 {
    unsigned x, y, z;
};

namespace emulation {

struct Thread {
    dim3 index;
    unsigned linear;
};

extern dim3 block_index, block_size, grid_size;
extern Thread* current;
extern unsigned char* dynamic_shared;

// Ends the process with a message about the kernel that runs.
[[noreturn]] void fail(const char* what);
void block_barrier();
void warp_barrier();
// Where a lane of the present warp leaves 8 bytes for the others.
void* warp_slot(unsigned lane);

typedef void (*Body)(void** arguments);
void add_kernel(const char* name, Body body);

struct Registration {
    Registration(const char* name, Body body) { add_kernel(name, body); }
};

template <class... A, std::size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}

template <class... A>
void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>{});
}

}  // namespace emulation

#define threadIdx (emulation::current->index)
#define blockIdx (emulation::block_index)
#define blockDim (emulation::block_size)
#define gridDim (emulation::grid_size)
#define SHARED_ARRAY(type, name) type* name = reinterpret_cast<type*>(emulation::dynamic_shared)
#define EXPORT(kernel)                                                       \
    static emulation::Registration register_##kernel(#kernel, [](void** arguments) { \
        emulation::call(kernel, arguments);                                  \
    });

inline void __syncthreads() { emulation::block_barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { emulation::warp_barrier(); }

template <class T>
T __shfl_sync(unsigned, T value, int lane) {
    static_assert(sizeof(T) <= 8, "a slot has eight bytes");
    std::memcpy(emulation::warp_slot(emulation::current->linear % 32), &value, sizeof(T));
    emulation::warp_barrier();
    T other;
    std::memcpy(&other, emulation::warp_slot((unsigned)lane % 32), sizeof(T));
    emulation::warp_barrier();
    return other;
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
    return __shfl_sync(mask, value, (int)(emulation::current->linear % 32) ^ distance);
}

inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __int_as_float(int bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}
inline int __float_as_int(float value) {
    int bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}
inline unsigned __float_as_uint(float value) { return (unsigned)__float_as_int(value); }
inline float __uint_as_float(unsigned bits) { return __int_as_float((int)bits); }
template <class T>
T min(T a, T b) { return b < a ? b : a; }
template <class T>
T max(T a, T b) { return a < b ? b : a; }
