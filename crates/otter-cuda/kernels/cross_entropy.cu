// Cross-entropy of rows of logits, which become their own gradient: the twin of otter-nn's layers/cross_entropy.rs.
#include "common.cuh"

// A block a row. The loss is -log softmax(logits)[target]; where `gradient` is set, logits become scale * (softmax - one-hot).
extern "C" __global__ void cross_entropy(float* losses, float* logits, const u32* targets, u32 vocabulary, float scale,
                                         u32 gradient) {
    __shared__ float room[WARP];
    __shared__ float of_target;
    float* row = logits + (u64)blockIdx.x * vocabulary;
    u32 target = targets[blockIdx.x];
    float largest = -INFINITY;
    for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x) largest = fmaxf(largest, row[i]);
    largest = block_max(largest, room);
    float sum = 0.0f;
    // A product with zero is zero, or NaN: so is the loss where a logit is not finite, negative infinity included.
    for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x) sum += expf(row[i] - largest) + row[i] * 0.0f;
    float log_sum = largest + logf(block_sum(sum, room));
    if (threadIdx.x == 0) {
        of_target = row[target];
        losses[blockIdx.x] = log_sum - of_target;
    }
    __syncthreads();
    if (!gradient) return;
    for (u32 i = threadIdx.x; i < vocabulary; i += blockDim.x)
        row[i] = scale * expf(row[i] - log_sum) - (i == target ? scale : 0.0f);
}
EXPORT(cross_entropy)
