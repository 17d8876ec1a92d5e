// Layer and root-mean-square normalization of rows, forward and backward: the twin of otter-nn's backend/cpu/norm.rs.
#include "common.cuh"

// A block a row. Statistics are the mean (0 where not centered) and the reciprocal deviation of every row.
extern "C" __global__ void norm_forward(float* y, float* statistics, const float* x, const float* weight, const float* bias,
                                        u32 width, float eps, u32 centered) {
    __shared__ float room[WARP];
    u64 row = blockIdx.x;
    x += row * width;
    y += row * width;
    float mean = 0.0f;
    if (centered) {
        float sum = 0.0f;
        for (u32 i = threadIdx.x; i < width; i += blockDim.x) sum += x[i];
        mean = block_sum(sum, room) / width;
    }
    float square = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) square += (x[i] - mean) * (x[i] - mean);
    float reciprocal = 1.0f / sqrtf(block_sum(square, room) / width + eps);
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float normed = (x[i] - mean) * reciprocal * weight[i];
        y[i] = bias ? normed + bias[i] : normed;
    }
    if (threadIdx.x == 0) {
        statistics[2 * row] = mean;
        statistics[2 * row + 1] = reciprocal;
    }
}
EXPORT(norm_forward)

// A block a row.
extern "C" __global__ void norm_backward_input(float* dx, const float* dy, const float* x, const float* weight,
                                               const float* statistics, u32 width, u32 centered) {
    __shared__ float room[WARP];
    u64 row = blockIdx.x;
    float mean = statistics[2 * row], reciprocal = statistics[2 * row + 1];
    dx += row * width;
    dy += row * width;
    x += row * width;
    float sum = 0.0f, projection = 0.0f;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float d = dy[i] * weight[i];
        sum += d;
        projection += d * (x[i] - mean);
    }
    float mean_d = centered ? block_sum(sum, room) / width : 0.0f;
    projection = block_sum(projection, room) * reciprocal / width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x)
        dx[i] = (dy[i] * weight[i] - mean_d - (x[i] - mean) * reciprocal * projection) * reciprocal;
}
EXPORT(norm_backward_input)

// Columns of a block, and rows that its threads take side by side.
#define COLUMNS 32
#define LANES 8

// Adds the sums over rows of dy, and of dy times the normalized x, where they are asked for. A block has COLUMNS columns; rows
// are summed by LANES threads, and these in order.
extern "C" __global__ void norm_backward_weight(float* d_weight, float* d_bias, const float* dy, const float* x,
                                              const float* statistics, u32 rows, u32 width) {
    __shared__ float weights[LANES][COLUMNS];
    __shared__ float biases[LANES][COLUMNS];
    u32 column = blockIdx.x * COLUMNS + threadIdx.x % COLUMNS, lane = threadIdx.x / COLUMNS;
    float of_weight = 0.0f, of_bias = 0.0f;
    if (column < width) {
        for (u32 row = lane; row < rows; row += LANES) {
            float d = dy[(u64)row * width + column];
            of_bias += d;
            if (d_weight) of_weight += d * (x[(u64)row * width + column] - statistics[2 * (u64)row]) * statistics[2 * (u64)row + 1];
        }
    }
    weights[lane][threadIdx.x % COLUMNS] = of_weight;
    biases[lane][threadIdx.x % COLUMNS] = of_bias;
    __syncthreads();
    if (lane != 0 || column >= width) return;
    for (u32 other = 1; other < LANES; other++) {
        of_weight += weights[other][threadIdx.x];
        of_bias += biases[other][threadIdx.x];
    }
    if (d_weight) d_weight[column] += of_weight;
    if (d_bias) d_bias[column] += of_bias;
}
EXPORT(norm_backward_weight)
