// AdamW: the twin of otter-nn's adamw.rs and adamw_eight_bit.rs, operation by operation, so that a GPU gives the
// host's bits.
#include "common.cuh"

namespace {

// Products and sums that no compiler fuses.
#ifdef OTTER_EMULATE
inline float product(float a, float b) { return a * b; }
inline float sum(float a, float b) { return a + b; }
#else
__device__ inline float product(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float sum(float a, float b) { return __fadd_rn(a, b); }
#endif

// What one step of one element needs.
struct Step {
    float factor, keep, beta2, one_minus_beta1, one_minus_beta2, step_size, root_correction2, epsilon;
};

__device__ inline void update(float& value, float gradient, float& first, float& second, const Step& c) {
    first = sum(first, product(sum(gradient, -first), c.one_minus_beta1));
    second = sum(product(second, c.beta2), product(product(c.one_minus_beta2, gradient), gradient));
    float denominator = sum(sqrtf(second) / c.root_correction2, c.epsilon);
    value = sum(product(value, c.keep), -product(c.step_size, first / denominator));
}

struct __align__(16) Floats {
    float x, y, z, w;
};

__device__ inline bool is_zero(const Floats& v) {
    return (__float_as_uint(v.x) | __float_as_uint(v.y) | __float_as_uint(v.z) | __float_as_uint(v.w)) == 0;
}

// Moments of 8 bits: the constants of adamw_eight_bit.rs.
const u32 BLOCK = 256;
const u32 DROPPED = 20;
const u32 FIRST_BASE = (127 - 15) << 3, SECOND_BASE = (127 - 31) << 3;
const float FIRST_OFFSET = 1.0f / 32768.0f;
const float SECOND_SMALLEST = 1.125f / 2147483648.0f;
const float LARGEST = 1.875f;
const float LARGEST_GRADIENT = 9223372036854775808.0f;

// 2^-124
__device__ inline float smallest_scale() { return __uint_as_float(3u << 23); }

__device__ inline float decode_first(u32 code) {
    float magnitude = __uint_as_float(((code & 0x7f) + FIRST_BASE) << DROPPED) - FIRST_OFFSET;
    return __uint_as_float(__float_as_uint(magnitude) | (code & 0x80) << 24);
}

__device__ inline u32 encode_first(float value, u32 random) {
    u32 bits = __float_as_uint(sum(fabsf(value), FIRST_OFFSET)) + (random >> (32 - DROPPED));
    u32 magnitude = (bits >> DROPPED) - FIRST_BASE;
    return (magnitude < 0x7f ? magnitude : 0x7f) | (__float_as_uint(value) >> 24 & 0x80);
}

__device__ inline float decode_second(u32 code) {
    return code == 0 ? 0.0f : __uint_as_float((code + SECOND_BASE) << DROPPED);
}

__device__ inline u32 encode_second(float value, u32 random) {
    u32 bits = __float_as_uint(fmaxf(value, SECOND_SMALLEST)) + (random >> (32 - DROPPED));
    u32 code = (bits >> DROPPED) - SECOND_BASE;
    return value == 0.0f ? 0 : code < 0xff ? code : 0xff;
}

// Random bits of a position, from the finishing steps of MurmurHash3.
__device__ inline u32 mixed(u32 position, u32 key) {
    u32 bits = position * 0x9e3779b1u ^ key;
    bits = (bits ^ bits >> 16) * 0x85ebca6bu;
    bits = (bits ^ bits >> 13) * 0xc2b2ae35u;
    return bits ^ bits >> 16;
}

__device__ inline u32 warp_largest(u32 bits) {
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        u32 other = __shfl_xor_sync(0xffffffffu, bits, distance);
        bits = bits > other ? bits : other;
    }
    return bits;
}

// The scale that gives `largest` the value `full`.
__device__ inline float scale_of(u32 largest, float full) {
    return largest == 0 ? 0.0f : fmaxf(__uint_as_float(largest) / full, smallest_scale());
}

__device__ inline float inverse_of(float scale) { return scale == 0.0f ? 0.0f : 1.0f / scale; }

}  // namespace

// Moments of 32 bits. Four elements that nothing ever reached are not written: they would not change.
extern "C" __global__ void adamw(float* values, const float* gradients, float* firsts, float* seconds, u64 count,
                                 float factor, float keep, float beta2, float one_minus_beta1, float one_minus_beta2,
                                 float step_size, float root_correction2, float epsilon) {
    Step c = {factor, keep, beta2, one_minus_beta1, one_minus_beta2, step_size, root_correction2, epsilon};
    u64 fours = count / 4;
    for (u64 i = thread_index(); i < fours; i += thread_count()) {
        Floats g = ((const Floats*)gradients)[i], m = ((Floats*)firsts)[i], v = ((Floats*)seconds)[i];
        if (keep == 1.0f && is_zero(g) && is_zero(m) && is_zero(v)) continue;
        Floats value = ((Floats*)values)[i];
        update(value.x, product(g.x, factor), m.x, v.x, c);
        update(value.y, product(g.y, factor), m.y, v.y, c);
        update(value.z, product(g.z, factor), m.z, v.z, c);
        update(value.w, product(g.w, factor), m.w, v.w, c);
        ((Floats*)values)[i] = value;
        ((Floats*)firsts)[i] = m;
        ((Floats*)seconds)[i] = v;
    }
    u64 last = 4 * fours + thread_index();
    if (last < count) update(values[last], product(gradients[last], factor), firsts[last], seconds[last], c);
}
EXPORT(adamw)

// Moments of 8 bits: a warp for each 256 of them, which share a scale. `position` is that of the first element.
extern "C" __global__ void adamw_eight_bit(float* values, const float* gradients, u8* firsts, u8* seconds,
                                           float* first_scales, float* second_scales, u64 count, u32 position, u32 key,
                                           float factor, float keep, float beta2, float one_minus_beta1,
                                           float one_minus_beta2, float step_size, float root_correction2, float epsilon) {
    Step c = {factor, keep, beta2, one_minus_beta1, one_minus_beta2, step_size, root_correction2, epsilon};
    u32 lane = threadIdx.x % WARP;
    u64 blocks = (count + BLOCK - 1) / BLOCK;
    for (u64 block = thread_index() / WARP; block < blocks; block += thread_count() / WARP) {
        u64 start = block * BLOCK + lane;
        float first_scale = first_scales[block], second_scale = second_scales[block];
        float m[BLOCK / WARP], v[BLOCK / WARP];
        u32 largest1 = 0, largest2 = 0;
        for (u32 k = 0; k < BLOCK / WARP; k++) {
            u64 i = start + k * WARP;
            m[k] = v[k] = 0.0f;
            if (i >= count) continue;
            float gradient = product(gradients[i], factor);
            // NaN stays NaN.
            gradient = gradient < -LARGEST_GRADIENT ? -LARGEST_GRADIENT : gradient;
            gradient = gradient > LARGEST_GRADIENT ? LARGEST_GRADIENT : gradient;
            m[k] = product(decode_first(firsts[i]), first_scale);
            v[k] = product(decode_second(seconds[i]), second_scale);
            float value = values[i];
            update(value, gradient, m[k], v[k], c);
            values[i] = value;
            // Bits of floats that are not negative compare as the floats do.
            u32 bits1 = __float_as_uint(m[k]) & 0x7fffffffu, bits2 = __float_as_uint(v[k]);
            largest1 = bits1 > largest1 ? bits1 : largest1;
            largest2 = bits2 > largest2 ? bits2 : largest2;
        }
        first_scale = scale_of(warp_largest(largest1), LARGEST - FIRST_OFFSET);
        second_scale = scale_of(warp_largest(largest2), LARGEST);
        float inverse1 = inverse_of(first_scale), inverse2 = inverse_of(second_scale);
        for (u32 k = 0; k < BLOCK / WARP; k++) {
            u64 i = start + k * WARP;
            if (i >= count) continue;
            u32 random = mixed(position + (u32)i, key);
            firsts[i] = (u8)encode_first(product(m[k], inverse1), random << 16);
            seconds[i] = (u8)encode_second(product(v[k], inverse2), random & 0xffff0000u);
        }
        if (lane == 0) {
            first_scales[block] = first_scale;
            second_scales[block] = second_scale;
        }
    }
}
EXPORT(adamw_eight_bit)
