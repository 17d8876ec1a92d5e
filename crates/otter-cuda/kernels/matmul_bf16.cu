// Products of matrices by tensor cores: both factors are rounded to bfloat16 as they are read, sums are f32. The twin of
// matmul.cu, argument for argument.
#include "stored.cuh"

#ifndef OTTER_EMULATE
#include <mma.h>
#endif

namespace {

namespace wmma = nvcuda::wmma;

// A block makes a tile of TILE x TILE of the result, DEPTH of the summed dimension at a time. Each of its warps has PART_ROWS x
// PART_COLUMNS of the tile, in fragments of SIDE x SIDE.
const u32 TILE = 128, DEPTH = 32, SIDE = 16, PART_ROWS = 64, PART_COLUMNS = 32;
// Puts eight consecutive lines of a factor into different banks, and keeps lines on 16 bytes.
const u32 PAD = 8;
// Distance between rows of results on their way out.
const u32 OUT_STRIDE = PART_COLUMNS + 4;

struct __align__(16) Words {
    u32 x, y, z, w;
};

struct __align__(8) Pair {
    u32 x, y;
};

__device__ inline u32 rounded_halves(u32 two) {
    return rounded(StoredF16::widen((u16)two), StoredF16::widen((u16)(two >> 16)));
}

// Writes 16 bytes of stored elements to shared memory, rounded.
__device__ inline void put(StoredF32, u16* to, Words from) {
    *(Pair*)to = {rounded(__uint_as_float(from.x), __uint_as_float(from.y)),
                  rounded(__uint_as_float(from.z), __uint_as_float(from.w))};
}

__device__ inline void put(StoredF16, u16* to, Words from) {
    *(Words*)to = {rounded_halves(from.x), rounded_halves(from.y), rounded_halves(from.z), rounded_halves(from.w)};
}

__device__ inline void put(StoredBf16, u16* to, Words from) { *(Words*)to = from; }

// 16 bytes of stored elements, of which `count` are there and the others are zero.
__device__ inline Words gather(const float* from, u32 count) {
    return {count > 0 ? __float_as_uint(from[0]) : 0, count > 1 ? __float_as_uint(from[1]) : 0,
            count > 2 ? __float_as_uint(from[2]) : 0, count > 3 ? __float_as_uint(from[3]) : 0};
}

__device__ inline u32 two(const u16* from, u32 at, u32 count) {
    u32 low = count > at ? from[at] : 0, high = count > at + 1 ? from[at + 1] : 0;
    return low | high << 16;
}

__device__ inline Words gather(const u16* from, u32 count) {
    return {two(from, 0, count), two(from, 2, count), two(from, 4, count), two(from, 6, count)};
}

// A factor: its TILE rows (or columns) and DEPTH elements of the summed dimension lie in shared memory as in the matrix, in
// lines of what is contiguous there. `ALONG` says that this is the summed dimension.
template <class Stored, bool ALONG>
struct Factor {
    static const u32 LINE = ALONG ? DEPTH : TILE, LINES = ALONG ? TILE : DEPTH;
    static const u32 STRIDE = LINE + PAD, SIZE = LINES * STRIDE;
    static const u32 VECTOR = Stored::VECTOR, IN_LINE = LINE / VECTOR;
    // What a thread brings, 16 bytes each, from lines so far apart.
    static const u32 SHARE = LINES * IN_LINE / THREADS, APART = THREADS / IN_LINE;

    // This thread's first element of the present tile, and how many lines and elements of a line there are from there on.
    const typename Stored::Element* from;
    u64 stride;
    u32 lines, length;
    // Whether every 16 bytes of a line can be read at once: lines begin at a multiple of that and are as long.
    bool vectors;

    // From row `first` of `rows` on; the summed dimension has `depth` elements.
    __device__ inline Factor(const typename Stored::Element* matrix, u64 stride, u32 first, u32 rows, u32 depth) : stride(stride) {
        u32 line = threadIdx.x / IN_LINE + (ALONG ? first : 0), at = threadIdx.x % IN_LINE * VECTOR + (ALONG ? 0 : first);
        lines = left(ALONG ? rows : depth, line);
        length = left(ALONG ? depth : rows, at);
        from = matrix + line * stride + at;
        vectors = (u64)matrix % 16 == 0 && stride % VECTOR == 0 && (ALONG ? depth : rows) % VECTOR == 0;
    }

    static __device__ inline u32 left(u32 all, u32 done) { return all > done ? all - done : 0; }

    // Reads this thread's share of the present tile, zeros where nothing is, and goes on to the next.
    __device__ inline void fetch(Words* share) {
        if (vectors) {
            for (u32 i = 0; i < SHARE; i++) {
                share[i] = {0, 0, 0, 0};
                if (i * APART < lines && length > 0) share[i] = *(const Words*)(from + i * APART * stride);
            }
        } else {
            for (u32 i = 0; i < SHARE; i++) share[i] = gather(from + i * APART * stride, i * APART < lines ? length : 0);
        }
        from += ALONG ? DEPTH : DEPTH * stride;
        if (ALONG) length = left(length, DEPTH);
        else lines = left(lines, DEPTH);
    }

    __device__ inline void place(u16* tile, const Words* share) const {
        for (u32 i = 0; i < SHARE; i++) {
            u32 line = threadIdx.x / IN_LINE + i * APART, at = threadIdx.x % IN_LINE * VECTOR;
            put(Stored(), tile + line * STRIDE + at, share[i]);
        }
    }

    // Where the fragment of row `row` and element `k` of the summed dimension begins in shared memory.
    static __device__ inline const __nv_bfloat16* at(const u16* tile, u32 row, u32 k) {
        return (const __nv_bfloat16*)(tile + (ALONG ? row * STRIDE + k : k * STRIDE + row));
    }
};

// Fragments of the first factor and of the second, by whether the summed dimension is the contiguous one.
template <bool ALONG>
struct Fragments {
    typedef wmma::fragment<wmma::matrix_a, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::row_major> First;
    typedef wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::col_major> Second;
};

template <>
struct Fragments<false> {
    typedef wmma::fragment<wmma::matrix_a, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::col_major> First;
    typedef wmma::fragment<wmma::matrix_b, SIDE, SIDE, SIDE, __nv_bfloat16, wmma::row_major> Second;
};

// Brings a fragment from shared memory. On GPUs by the instruction itself: nvcc does not see through load_matrix_sync of
// bfloat16 that the address is one of shared memory, and would read word by word.
#ifdef OTTER_EMULATE
template <class Fragment>
inline void load(Fragment& to, const __nv_bfloat16* from, u32 stride) {
    wmma::load_matrix_sync(to, from, stride);
}
#else
#define LOAD(Fragment, which, layout)                                                                                  \
    __device__ inline void load(Fragment& to, const __nv_bfloat16* from, u32 stride) {                                 \
        static_assert(sizeof(to) == 4 * sizeof(u32), "a fragment is four words of each thread");                       \
        u32* words = (u32*)&to;                                                                                        \
        asm volatile("wmma.load." which ".sync.aligned." layout ".m16n16k16.shared.bf16 {%0, %1, %2, %3}, [%4], %5;"   \
                     : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])                                  \
                     : "r"((u32)__cvta_generic_to_shared(from)), "r"(stride)                                           \
                     : "memory");                                                                                      \
    }

LOAD(Fragments<true>::First, "a", "row")
LOAD(Fragments<false>::First, "a", "col")
LOAD(Fragments<true>::Second, "b", "col")
LOAD(Fragments<false>::Second, "b", "row")
#endif

// c (m, n) = a b, or c += a b. `a` is (m, k) with k contiguous, or (k, m); `b` is (n, k) with k contiguous, or (k, n).
template <class Stored, bool A_ALONG, bool B_ALONG>
__device__ inline void multiply(float* c, const float* a, const typename Stored::Element* b, u32 m, u32 n, u32 k, u64 c_stride,
                                u64 a_stride, u64 b_stride, u32 accumulate) {
    typedef Factor<StoredF32, A_ALONG> A;
    typedef Factor<Stored, B_ALONG> B;
    typedef wmma::fragment<wmma::accumulator, SIDE, SIDE, SIDE, float> Sums;
    const u32 DOWN = PART_ROWS / SIDE, ACROSS = PART_COLUMNS / SIDE;
    // Two tiles of each factor, of which one is multiplied while the other is filled; then results on their way out.
    __shared__ __align__(32) u16 tiles[2][A::SIZE + B::SIZE];
    static_assert(THREADS / WARP * SIDE * OUT_STRIDE * sizeof(float) <= sizeof(tiles), "results have no room");
    u32 first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE, warp = threadIdx.x / WARP;
    u32 row = warp / (TILE / PART_COLUMNS) * PART_ROWS, column = warp % (TILE / PART_COLUMNS) * PART_COLUMNS;
    A of_a(a, a_stride, first_row, m, k);
    B of_b(b, b_stride, first_column, n, k);
    Words share_a[A::SHARE], share_b[B::SHARE];
    Sums sums[DOWN][ACROSS];
    for (u32 i = 0; i < DOWN; i++)
        for (u32 j = 0; j < ACROSS; j++) wmma::fill_fragment(sums[i][j], 0.0f);
    of_a.fetch(share_a);
    of_b.fetch(share_b);
    of_a.place(tiles[0], share_a);
    of_b.place(tiles[0] + A::SIZE, share_b);
    __syncthreads();
    u32 present = 0;
    for (u32 depth = 0; depth < k; depth += DEPTH) {
        // What is read here is not needed before the products are done.
        bool more = k - depth > DEPTH;
        if (more) {
            of_a.fetch(share_a);
            of_b.fetch(share_b);
        }
        const u16* tile = tiles[present];
        for (u32 at = 0; at < DEPTH; at += SIDE) {
            typename Fragments<A_ALONG>::First left[DOWN];
            typename Fragments<B_ALONG>::Second right[ACROSS];
            for (u32 i = 0; i < DOWN; i++) load(left[i], A::at(tile, row + i * SIDE, at), A::STRIDE);
            for (u32 j = 0; j < ACROSS; j++) load(right[j], B::at(tile + A::SIZE, column + j * SIDE, at), B::STRIDE);
            for (u32 i = 0; i < DOWN; i++)
                for (u32 j = 0; j < ACROSS; j++) wmma::mma_sync(sums[i][j], left[i], right[j], sums[i][j]);
        }
        present ^= 1;
        if (more) {
            of_a.place(tiles[present], share_a);
            of_b.place(tiles[present] + A::SIZE, share_b);
        }
        __syncthreads();
    }
    // Each warp by itself, SIDE rows at a time: a row of its part is a line of the cache.
    float* out = (float*)tiles[0] + warp * SIDE * OUT_STRIDE;
    u32 lane = threadIdx.x % WARP, at_column = first_column + column + lane;
    UNROLL
    for (u32 i = 0; i < DOWN; i++) {
        for (u32 j = 0; j < ACROSS; j++)
            wmma::store_matrix_sync(out + j * SIDE, sums[i][j], OUT_STRIDE, wmma::mem_row_major);
        __syncwarp();
        u32 at_row = first_row + row + i * SIDE;
        u32 count = at_column >= n || at_row >= m ? 0 : min(m - at_row, SIDE);
        float* to = c + at_row * c_stride + at_column;
        float before[SIDE];
        for (u32 r = 0; r < SIDE; r++) before[r] = accumulate && r < count ? to[r * c_stride] : 0.0f;
        for (u32 r = 0; r < SIDE; r++) {
            float sum = out[r * OUT_STRIDE + lane];
            if (r < count) to[r * c_stride] = accumulate ? before[r] + sum : sum;
        }
        __syncwarp();
    }
}

}  // namespace

// Of all: the result begins at element `c_first` and its rows are `c_stride` apart; the first factor likewise. The second
// begins at its first element, and its rows are as long as they are apart.

// y (rows, outer) = x (rows, inner) w^T with w (outer, inner)
#define MATMUL_NT(name, Stored)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                           \
        name(float* y, const float* x, const Stored::Element* w, u32 rows, u32 outer, u32 inner, u64 y_first,             \
             u64 y_stride, u64 x_first, u64 x_stride, u32 accumulate) {                                                \
        multiply<Stored, true, true>(y + y_first, x + x_first, w, rows, outer, inner, y_stride, x_stride, inner,       \
                                     accumulate);                                                                      \
    }                                                                                                                  \
    EXPORT(name)

// dx (rows, inner) = dy (rows, outer) w
#define MATMUL_NN(name, Stored)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                           \
        name(float* dx, const float* dy, const Stored::Element* w, u32 rows, u32 inner, u32 outer, u64 dx_first,          \
             u64 dx_stride, u64 dy_first, u64 dy_stride, u32 accumulate) {                                             \
        multiply<Stored, true, false>(dx + dx_first, dy + dy_first, w, rows, inner, outer, dx_stride, dy_stride,       \
                                      inner, accumulate);                                                              \
    }                                                                                                                  \
    EXPORT(name)

// dw (outer, inner) (+)= dy^T x
#define MATMUL_TN(name, Stored)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                           \
        name(float* dw, const float* dy, const Stored::Element* x, u32 outer, u32 inner, u32 rows, u64 dw_first,          \
             u64 dw_stride, u64 dy_first, u64 dy_stride, u32 accumulate) {                                             \
        multiply<Stored, false, false>(dw + dw_first, dy + dy_first, x, outer, inner, rows, dw_stride, dy_stride,      \
                                       inner, accumulate);                                                             \
    }                                                                                                                  \
    EXPORT(name)

MATMUL_NT(matmul_nt_rounded, StoredF32)
MATMUL_NT(matmul_nt_rounded_f16, StoredF16)
MATMUL_NT(matmul_nt_rounded_bf16, StoredBf16)
MATMUL_NN(matmul_nn_rounded, StoredF32)
MATMUL_NN(matmul_nn_rounded_f16, StoredF16)
MATMUL_NN(matmul_nn_rounded_bf16, StoredBf16)
MATMUL_TN(matmul_tn_rounded, StoredF32)
MATMUL_TN(matmul_tn_rounded_f16, StoredF16)
MATMUL_TN(matmul_tn_rounded_bf16, StoredBf16)
