// f32 products of matrices, a tile of the result a block: the twin of otter-nn's backend/cpu/gemm/. The second factor may be
// stored in half precision; it is widened on the way.
#include "stored.cuh"

// A tile of the result is TILE x TILE, of which a thread has four quarters of 4 x 4, so that threads beside each other read
// elements beside each other.
#define TILE 128
#define DEPTH 8
#define QUARTER (TILE / 2)
// Keeps the columns of a tile in different banks, and rows on 16 bytes.
#define PAD 4

// Brings a tile of TILE rows (or columns) and DEPTH elements of the summed dimension to shared memory, zeros where there are
// none. `along` says that the summed dimension is the contiguous one.
template <class Stored>
__device__ static inline void bring(float (*tile)[TILE + PAD], const typename Stored::Element* matrix, u64 stride, u32 first,
                                    u32 rows, u32 depth_first, u32 depth, bool along) {
    for (u32 i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        u32 row = along ? i / DEPTH : i % TILE, k = along ? i % DEPTH : i / TILE;
        bool inside = first + row < rows && depth_first + k < depth;
        u64 at = along ? (u64)(first + row) * stride + depth_first + k : (u64)(depth_first + k) * stride + first + row;
        tile[k][row] = inside ? Stored::widen(matrix[at]) : 0.0f;
    }
}

// c (m, n) = a b, or c += a b. `a` is (m, k) with k contiguous, or (k, m); `b` is (n, k) with k contiguous, or (k, n).
template <class Stored, bool A_ALONG, bool B_ALONG>
__device__ static inline void multiply(float* c, const float* a, const typename Stored::Element* b, u32 m, u32 n, u32 k,
                                       u64 c_stride, u64 a_stride, u64 b_stride, u32 accumulate) {
    __shared__ __align__(16) float a_tile[DEPTH][TILE + PAD];
    __shared__ __align__(16) float b_tile[DEPTH][TILE + PAD];
    u32 first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    u32 row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    float sums[8][8];
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) sums[i][j] = 0.0f;
    for (u32 depth = 0; depth < k; depth += DEPTH) {
        bring<StoredF32>(a_tile, a, a_stride, first_row, m, depth, k, A_ALONG);
        bring<Stored>(b_tile, b, b_stride, first_column, n, depth, k, B_ALONG);
        __syncthreads();
        for (int at = 0; at < DEPTH; at++) {
            float of_a[8], of_b[8];
            for (int i = 0; i < 4; i++) {
                of_a[i] = a_tile[at][row + i];
                of_a[4 + i] = a_tile[at][QUARTER + row + i];
                of_b[i] = b_tile[at][column + i];
                of_b[4 + i] = b_tile[at][QUARTER + column + i];
            }
            for (int i = 0; i < 8; i++)
                for (int j = 0; j < 8; j++) sums[i][j] = fmaf(of_a[i], of_b[j], sums[i][j]);
        }
        __syncthreads();
    }
    for (int i = 0; i < 8; i++) {
        u32 at_row = first_row + i / 4 * QUARTER + row + i % 4;
        if (at_row >= m) continue;
        for (int j = 0; j < 8; j++) {
            u32 at_column = first_column + j / 4 * QUARTER + column + j % 4;
            if (at_column >= n) continue;
            float* to = c + (u64)at_row * c_stride + at_column;
            *to = accumulate ? *to + sums[i][j] : sums[i][j];
        }
    }
}

// Of all: the result begins at element `c_first` and its rows are `c_stride` apart; the first factor likewise. The second
// begins at its first element, and its rows are as long as they are apart.

// y (rows, outer) = x (rows, inner) w^T with w (outer, inner)
#define MATMUL_NT(name, Stored)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        name(float* y, const float* x, const Stored::Element* w, u32 rows, u32 outer, u32 inner, u64 y_first,             \
             u64 y_stride, u64 x_first, u64 x_stride, u32 accumulate) {                                                \
        multiply<Stored, true, true>(y + y_first, x + x_first, w, rows, outer, inner, y_stride, x_stride, inner,       \
                                     accumulate);                                                                      \
    }                                                                                                                  \
    EXPORT(name)

// dx (rows, inner) = dy (rows, outer) w
#define MATMUL_NN(name, Stored)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        name(float* dx, const float* dy, const Stored::Element* w, u32 rows, u32 inner, u32 outer, u64 dx_first,          \
             u64 dx_stride, u64 dy_first, u64 dy_stride, u32 accumulate) {                                             \
        multiply<Stored, true, false>(dx + dx_first, dy + dy_first, w, rows, inner, outer, dx_stride, dy_stride,       \
                                      inner, accumulate);                                                              \
    }                                                                                                                  \
    EXPORT(name)

// dw (outer, inner) (+)= dy^T x
#define MATMUL_TN(name, Stored)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        name(float* dw, const float* dy, const Stored::Element* x, u32 outer, u32 inner, u32 rows, u64 dw_first,          \
             u64 dw_stride, u64 dy_first, u64 dy_stride, u32 accumulate) {                                             \
        multiply<Stored, false, false>(dw + dw_first, dy + dy_first, x, outer, inner, rows, dw_stride, dy_stride,      \
                                       inner, accumulate);                                                             \
    }                                                                                                                  \
    EXPORT(name)

MATMUL_NT(matmul_nt, StoredF32)
MATMUL_NT(matmul_nt_f16, StoredF16)
MATMUL_NT(matmul_nt_bf16, StoredBf16)
MATMUL_NN(matmul_nn, StoredF32)
MATMUL_NN(matmul_nn_f16, StoredF16)
MATMUL_NN(matmul_nn_bf16, StoredBf16)
MATMUL_TN(matmul_tn, StoredF32)
MATMUL_TN(matmul_tn_f16, StoredF16)
MATMUL_TN(matmul_tn_bf16, StoredBf16)
