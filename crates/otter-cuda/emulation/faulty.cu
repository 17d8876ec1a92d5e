// Kernels that no GPU would run as meant: the tests of the emulation must notice.
#include "../kernels/common.cuh"

extern "C" __global__ void half_a_block_waits(float* x) {
    if (threadIdx.x < WARP) __syncthreads();
    x[0] = 1.0f;
}
EXPORT(half_a_block_waits)

extern "C" __global__ void half_a_warp_shuffles(float* x) {
    if (threadIdx.x < WARP / 2) x[threadIdx.x] = warp_sum(1.0f);
}
EXPORT(half_a_warp_shuffles)
