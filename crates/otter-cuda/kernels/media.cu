// Rows that see all media alike: the twin of the uniform case of otter-nn's layers/media_attention.rs.
#include "common.cuh"

// A block of the grid's first dimension for each listed row, of its second for each THREADS columns: the mean of all latents of
// the row's items, added in order. Zeros where it has none. `starts` says where a row's items begin in `items`.
extern "C" __global__ void media_mean(float* out, const float* v, const u32* rows, const u32* starts, const u32* items,
                                      u32 latents, u32 width) {
    u32 column = blockIdx.y * THREADS + threadIdx.x;
    if (column >= width) return;
    u32 first = starts[blockIdx.x], last = starts[blockIdx.x + 1];
    float sum = 0.0f;
    for (u32 place = first; place < last; place++) {
        const float* latent = v + (u64)items[place] * latents * width + column;
        for (u32 i = 0; i < latents; i++) sum += latent[(u64)i * width];
    }
    u64 count = (u64)(last - first) * latents;
    out[(u64)rows[blockIdx.x] * width + column] = count == 0 ? 0.0f : sum * (float)(1.0 / (double)count);
}
EXPORT(media_mean)

// A block of the first dimension for each latent of each listed item: adds, in order, what the rows that see the item give to
// it. `starts` says where an item's rows begin in `rows` and `factors`.
extern "C" __global__ void media_mean_backward(float* dv, const float* d_out, const u32* items, const u32* starts,
                                               const u32* rows, const float* factors, u32 latents, u32 width) {
    u32 column = blockIdx.y * THREADS + threadIdx.x;
    if (column >= width) return;
    u32 item = blockIdx.x / latents, first = starts[item], last = starts[item + 1];
    float* place = dv + ((u64)items[item] * latents + blockIdx.x % latents) * width + column;
    float sum = *place;
    for (u32 i = first; i < last; i++) sum += factors[i] * d_out[(u64)rows[i] * width + column];
    *place = sum;
}
EXPORT(media_mean_backward)
