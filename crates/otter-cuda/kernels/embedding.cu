// Rows of a table: the twin of otter-nn's layers/embedding.rs.
#include "common.cuh"

// A block a row of the output.
extern "C" __global__ void embedding_rows(float* out, const float* table, const u32* ids, u32 width) {
    u64 from = (u64)ids[blockIdx.x] * width, to = (u64)blockIdx.x * width;
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) out[to + i] = table[from + i];
}
EXPORT(embedding_rows)

// A block a distinct id: adds the rows of dy that belong to it, in their order. `starts` says where its places begin in `places`.
extern "C" __global__ void embedding_backward(float* d_table, const float* dy, const u32* ids, const u32* starts,
                                              const u32* places, u32 width) {
    float* row = d_table + (u64)ids[blockIdx.x] * width;
    u32 first = starts[blockIdx.x], last = starts[blockIdx.x + 1];
    for (u32 i = threadIdx.x; i < width; i += blockDim.x) {
        float sum = row[i];
        for (u32 place = first; place < last; place++) sum += dy[(u64)places[place] * width + i];
        row[i] = sum;
    }
}
EXPORT(embedding_backward)
