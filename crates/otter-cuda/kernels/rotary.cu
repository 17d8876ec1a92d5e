// Rotary position embedding, half-split: the twin of otter-nn's layers/rotary.rs. Angles come from the host, which computes them
// as the reference does.
#include "common.cuh"

// Turns pairs (d, d + pairs) of every head of x (rows, heads, head_size); cosines and sines are (rows, pairs). Backwards where
// `direction` is -1.
extern "C" __global__ void rotary_turn(float* x, const float* cosines, const float* sines, u32 heads, u32 head_size, u32 pairs,
                                       float direction, u64 count) {
    for (u64 i = thread_index(); i < count; i += thread_count()) {
        u32 pair = i % pairs;
        u64 head = i / pairs, row = head / heads;
        float c = cosines[row * pairs + pair], s = direction * sines[row * pairs + pair];
        float *low = x + head * head_size + pair, *high = low + pairs;
        float a = *low, b = *high;
        *low = a * c - b * s;
        *high = b * c + a * s;
    }
}
EXPORT(rotary_turn)
