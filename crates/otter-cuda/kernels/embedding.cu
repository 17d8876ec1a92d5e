// Rows of a table: the twin of otter-nn's layers/embedding.rs.
#include "stored.cuh"

namespace {

// A block a row of the output.
template <class Stored, bool FOURS>
__device__ inline void rows_of(float* out, const typename Stored::Element* table, const u32* ids, u32 width) {
    const typename Stored::Element* from = table + (u64)ids[blockIdx.x] * width;
    float* to = out + (u64)blockIdx.x * width;
    for (u32 i = 4 * threadIdx.x; i < width; i += 4 * blockDim.x) {
        FourFloats four = Stored::widen(load_four<Stored, FOURS>(from, i, width));
        if constexpr (FOURS) {
            *(FourFloats*)(to + i) = four;
        } else {
            float elements[4] = {four.x, four.y, four.z, four.w};
            UNROLL for (u32 n = 0; n < 4; n++)
                if (i + n < width) to[i + n] = elements[n];
        }
    }
}

}  // namespace

#define ROWS_OF(name, Stored)                                                                              \
    extern "C" __global__ void name(float* out, const Stored::Element* table, const u32* ids, u32 width) { \
        if (width % 4 == 0)                                                                                \
            rows_of<Stored, true>(out, table, ids, width);                                                 \
        else                                                                                               \
            rows_of<Stored, false>(out, table, ids, width);                                                \
    }                                                                                                      \
    EXPORT(name)

ROWS_OF(embedding_rows_f32, StoredF32)
ROWS_OF(embedding_rows_f16, StoredF16)
ROWS_OF(embedding_rows_bf16, StoredBf16)

// A block a distinct id: adds the rows of dy that belong to it, in their order. `starts` says where its places begin in
// `places`.
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
