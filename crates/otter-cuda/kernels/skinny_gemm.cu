// Products of a few rows with a matrix in f32, f16 or bf16, as in decoding: what quantized.cu does for blocks.
#include "stored.cuh"

namespace {

// Columns that a warp takes at once, four a thread: so both weights and rows of x are read in whole stretches.
const u32 STEP = 4 * WARP;

// y (+)= x w^T for up to ROWS rows of x. A warp takes WEIGHTS rows of w, each element once. Each thread adds its columns in
// order, then the warp adds its threads: a row's results do not depend on the number of rows, nor on how elements are loaded.
template <class Stored, bool FOURS, u32 ROWS, u32 WEIGHTS>
__device__ inline void skinny_gemm(float* y, const float* x, const typename Stored::Element* w, u32 rows, u32 inner, u32 outer,
                                u32 accumulate) {
    // Steps whose weights are asked for before the first of them is used: 64 bytes a thread are under way. One by one elements
    // are rare, and not worth the registers.
    const u32 AHEAD = FOURS ? 64 / (u32)sizeof(typename Stored::Four) / WEIGHTS : 1;
    u32 lane = threadIdx.x % WARP;
    u64 first = thread_index() / WARP * WEIGHTS;
    if (first >= outer) return;
    const typename Stored::Element* weight_rows[WEIGHTS];
    // Where there are fewer rows, the last is taken again, and not written.
    UNROLL for (u32 n = 0; n < WEIGHTS; n++) weight_rows[n] = w + (first + n < outer ? first + n : outer - 1) * inner;
    u32 starts[ROWS];
    UNROLL for (u32 row = 0; row < ROWS; row++) starts[row] = (row < rows ? row : rows - 1) * inner;
    float sums[WEIGHTS][ROWS] = {};
    for (u32 start = 4 * lane; start < inner; start += AHEAD * STEP) {
        typename Stored::Four fours[AHEAD][WEIGHTS];
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ahead++) {
            u32 column = start + ahead * STEP;
            if (column >= inner) continue;
            UNROLL for (u32 n = 0; n < WEIGHTS; n++) fours[ahead][n] = load_four<Stored, FOURS>(weight_rows[n], column, inner);
        }
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ahead++) {
            u32 column = start + ahead * STEP;
            if (column >= inner) continue;
            FourFloats weights[WEIGHTS];
            UNROLL for (u32 n = 0; n < WEIGHTS; n++) weights[n] = Stored::widen(fours[ahead][n]);
            UNROLL for (u32 row = 0; row < ROWS; row++) {
                FourFloats v = load_four<StoredF32, FOURS>(x + starts[row], column, inner);
                UNROLL for (u32 n = 0; n < WEIGHTS; n++) {
                    float sum = fmaf(v.x, weights[n].x, sums[n][row]);
                    sum = fmaf(v.y, weights[n].y, sum);
                    sum = fmaf(v.z, weights[n].z, sum);
                    sums[n][row] = fmaf(v.w, weights[n].w, sum);
                }
            }
        }
    }
    UNROLL for (u32 n = 0; n < WEIGHTS; n++) {
        UNROLL for (u32 row = 0; row < ROWS; row++) {
            float sum = warp_sum(sums[n][row]);
            if (lane != 0 || row >= rows || first + n >= outer) continue;
            float* to = y + (u64)row * outer + first + n;
            *to = accumulate ? *to + sum : sum;
        }
    }
}

}  // namespace

// Whether rows are whole fours is the same for all threads.
#define SKINNY_GEMM(name, Stored, ROWS, WEIGHTS)                                                                   \
    extern "C" __global__ void __launch_bounds__(128)                                                           \
        name(float* y, const float* x, const Stored::Element* w, u32 rows, u32 inner, u32 outer, u32 accumulate) { \
        if (inner % 4 == 0)                                                                                     \
            skinny_gemm<Stored, true, ROWS, WEIGHTS>(y, x, w, rows, inner, outer, accumulate);                     \
        else                                                                                                    \
            skinny_gemm<Stored, false, ROWS, WEIGHTS>(y, x, w, rows, inner, outer, accumulate);                    \
    }                                                                                                           \
    EXPORT(name)

SKINNY_GEMM(skinny_gemm_f32_1, StoredF32, 1, 1)
SKINNY_GEMM(skinny_gemm_f32_2, StoredF32, 2, 2)
SKINNY_GEMM(skinny_gemm_f32_4, StoredF32, 4, 2)
SKINNY_GEMM(skinny_gemm_f32_8, StoredF32, 8, 4)
SKINNY_GEMM(skinny_gemm_f16_1, StoredF16, 1, 1)
SKINNY_GEMM(skinny_gemm_f16_2, StoredF16, 2, 2)
SKINNY_GEMM(skinny_gemm_f16_4, StoredF16, 4, 2)
SKINNY_GEMM(skinny_gemm_f16_8, StoredF16, 8, 4)
SKINNY_GEMM(skinny_gemm_bf16_1, StoredBf16, 1, 1)
SKINNY_GEMM(skinny_gemm_bf16_2, StoredBf16, 2, 2)
SKINNY_GEMM(skinny_gemm_bf16_4, StoredBf16, 4, 2)
SKINNY_GEMM(skinny_gemm_bf16_8, StoredBf16, 8, 4)
