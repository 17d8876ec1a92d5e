// Activations, sums and gates, element by element: the twin of otter-nn's backend/cpu/elementwise.rs.
#include "common.cuh"

// The kinds of src/ops/elementwise.rs.
enum Activation { GELU = 0, GELU_TANH = 1, QUICK_GELU = 2, RELU = 3 };

__device__ static inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ static inline float value_of(u32 kind, float x) {
    switch (kind) {
        case GELU: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
        case GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.79788456f * x * (1.0f + 0.044715f * x * x)));
        case QUICK_GELU: return x * sigmoid(1.702f * x);
        // NaN stays NaN.
        default: return x < 0.0f ? 0.0f : x;
    }
}

__device__ static inline float slope_of(u32 kind, float x) {
    switch (kind) {
        case GELU: return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * 0.39894228f * expf(-0.5f * x * x);
        case GELU_TANH: {
            float square = x * x, tanh = tanhf(0.79788456f * x * (1.0f + 0.044715f * square));
            return 0.5f * (1.0f + tanh) + 0.5f * x * (1.0f - tanh * tanh) * 0.79788456f * (1.0f + 3.0f * 0.044715f * square);
        }
        case QUICK_GELU: {
            float s = sigmoid(1.702f * x);
            return s + x * 1.702f * s * (1.0f - s);
        }
        default: return x > 0.0f ? 1.0f : 0.0f;
    }
}

// y = factor * x + y
extern "C" __global__ void add_scaled(float* y, const float* x, float factor, u64 count) {
    for (u64 i = thread_index(); i < count; i += thread_count()) y[i] += factor * x[i];
}
EXPORT(add_scaled)

extern "C" __global__ void scale(float* x, float factor, u64 count) {
    for (u64 i = thread_index(); i < count; i += thread_count()) x[i] *= factor;
}
EXPORT(scale)

// Adds a bias of `width` elements to every row.
extern "C" __global__ void add_bias(float* x, const float* bias, u32 width, u64 count) {
    for (u64 i = thread_index(); i < count; i += thread_count()) x[i] += bias[i % width];
}
EXPORT(add_bias)

extern "C" __global__ void activate(float* y, const float* x, u32 kind, u64 count) {
    for (u64 i = thread_index(); i < count; i += thread_count()) y[i] = value_of(kind, x[i]);
}
EXPORT(activate)

// The gradient of the activation's output becomes that of its input x.
extern "C" __global__ void activate_backward(float* d, const float* x, u32 kind, u64 count) {
    for (u64 i = thread_index(); i < count; i += thread_count()) d[i] *= slope_of(kind, x[i]);
}
EXPORT(activate_backward)

extern "C" __global__ void silu_product(float* y, const float* gate, const float* up, u64 count) {
    for (u64 i = thread_index(); i < count; i += thread_count()) y[i] = gate[i] * sigmoid(gate[i]) * up[i];
}
EXPORT(silu_product)

// d_up holds the gradient of the product on entry.
extern "C" __global__ void silu_product_backward(float* d_gate, float* d_up, const float* gate, const float* up, u64 count) {
    for (u64 i = thread_index(); i < count; i += thread_count()) {
        float g = gate[i], s = sigmoid(g), d = d_up[i];
        d_gate[i] = d * up[i] * s * (1.0f + g * (1.0f - s));
        d_up[i] = d * g * s;
    }
}
EXPORT(silu_product_backward)

// tanh of the gate; not a number where that is infinite.
__device__ static inline float factor_of(float gate) { return tanhf(gate) + gate * 0.0f; }

// y += branch * tanh(gate)
extern "C" __global__ void gate_add(float* y, const float* branch, const float* gate, u64 count) {
    float factor = factor_of(gate[0]);
    for (u64 i = thread_index(); i < count; i += thread_count()) y[i] += branch[i] * factor;
}
EXPORT(gate_add)

// d_branch = dy * tanh(gate)
extern "C" __global__ void gate_backward(float* d_branch, const float* dy, const float* gate, u64 count) {
    float factor = factor_of(gate[0]);
    for (u64 i = thread_index(); i < count; i += thread_count()) d_branch[i] = dy[i] * factor;
}
EXPORT(gate_backward)

// Limits all elements to plus or minus `limit`; NaN stays.
extern "C" __global__ void clamp(float* x, float limit, u64 count) {
    for (u64 i = thread_index(); i < count; i += thread_count()) {
        float v = x[i];
        x[i] = v > limit ? limit : v < -limit ? -limit : v;
    }
}
EXPORT(clamp)

// Nothing passes at a limit.
extern "C" __global__ void clamp_backward(float* d, const float* clamped, float limit, u64 count) {
    for (u64 i = thread_index(); i < count; i += thread_count())
        if (clamped[i] >= limit || clamped[i] <= -limit) d[i] = 0.0f;
}
EXPORT(clamp_backward)

// A block's byte says whether any of the elements that it looked at is not zero.
extern "C" __global__ void any_nonzero(u8* found, const float* x, u64 count) {
    __shared__ float room[WARP];
    u32 any = 0;
    for (u64 i = thread_index(); i < count; i += thread_count()) any |= x[i] != 0.0f;
    float of_block = block_max((float)any, room);
    if (threadIdx.x == 0) found[blockIdx.x] = of_block != 0.0f;
}
EXPORT(any_nonzero)

// Zeroes rows whose byte is zero, a block a row at a time.
extern "C" __global__ void keep_rows(float* x, const u8* kept, u64 rows, u64 width) {
    for (u64 row = blockIdx.x; row < rows; row += gridDim.x) {
        if (kept[row]) continue;
        for (u64 i = threadIdx.x; i < width; i += blockDim.x) x[row * width + i] = 0.0f;
    }
}
EXPORT(keep_rows)

// Sums of products (or of squares, where both are the same) of as many stretches as there are blocks, each in a fixed order.
// They are written from part `first` on.
extern "C" __global__ void dot_parts(float* parts, u64 first, const float* a, const float* b, u64 count) {
    __shared__ float room[WARP];
    u64 stretch = (count + gridDim.x - 1) / gridDim.x, start = blockIdx.x * stretch;
    u64 end = start + stretch < count ? start + stretch : count;
    float sum = 0.0f;
    for (u64 i = start + threadIdx.x; i < end; i += blockDim.x) sum += a[i] * b[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) parts[first + blockIdx.x] = sum;
}
EXPORT(dot_parts)

// d_gate += (sum of the parts) * (1 - tanh(gate)^2); one block
extern "C" __global__ void gate_gradient(float* d_gate, const float* parts, const float* gate, u32 count) {
    __shared__ float room[WARP];
    float sum = 0.0f, factor = tanhf(gate[0]);
    for (u32 i = threadIdx.x; i < count; i += blockDim.x) sum += parts[i];
    sum = block_sum(sum, room);
    if (threadIdx.x == 0) d_gate[0] += sum * (1.0f - factor * factor);
}
EXPORT(gate_gradient)
