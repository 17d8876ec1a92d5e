// What all kernels share. Sources are compiled by nvcc for GPUs, and by a C++ compiler with emulation/cuda_on_host.h for
// tests: what is not in both is in that header.
#pragma once

#ifdef OTTER_EMULATE
#include "../emulation/cuda_on_host.h"
#else
#define SHARED_ARRAY(type, name) extern __shared__ __align__(16) unsigned char name##_bytes[]; type* name = reinterpret_cast<type*>(name##_bytes)
#define EXPORT(kernel)
#endif

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned char u8;
typedef unsigned short u16;

// Threads of a block where nothing else is said. src/driver/gpu.rs knows the same number.
#define THREADS 256
#define WARP 32

// Index of this thread among all of a one-dimensional grid, and their number.
__device__ inline u64 thread_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline u64 thread_count() { return (u64)gridDim.x * blockDim.x; }

// Sum over the threads of a warp, in a fixed order; every thread gets it.
__device__ inline float warp_sum(float x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

// Sum over the threads of a block of whole warps, in a fixed order; every thread gets it. `room` holds a number for each warp.
__device__ inline float block_sum(float x, float* room) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0.0f;
    for (u32 warp = 0; warp < blockDim.x / WARP; warp++) sum += room[warp];
    return sum;
}

__device__ inline float block_max(float x, float* room) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    float largest = room[0];
    for (u32 warp = 1; warp < blockDim.x / WARP; warp++) largest = fmaxf(largest, room[warp]);
    return largest;
}
