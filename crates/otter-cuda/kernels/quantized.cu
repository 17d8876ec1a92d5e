// Frozen matrices in blocks of 8 or 4 bits: the twin of otter-nn's tensor/quantized/{q8_0,q4_k}.rs, byte for byte as in GGUF.
#include "stored.cuh"

namespace {

struct __align__(16) Words {
    u32 x, y, z, w;
};

// The float of an integer below 2^23, without a conversion, of which GPUs do few at a time.
__device__ inline float small_float(u32 integer) { return __uint_as_float(0x4b000000u | integer) - 8388608.0f; }

// A format says what one thread of a warp takes of the STEP columns that the warp takes at once: QUADS times four columns.
// Products of a scale and a code are exact in f32, so it does not matter whether a compiler fuses them with what follows.

// 32 elements: an f16 scale, signed bytes. Blocks are aligned to two bytes. Eight threads a block.
struct Q8_0 {
    static const u32 BYTES = 34, ELEMENTS = 32, STEP = 128, QUADS = 1;

    struct Part {
        u32 scale, quants;
    };

    static __device__ inline Part load(const u8* blocks, u64 step, u32 lane) {
        const u16* block = (const u16*)(blocks + (4 * step + lane / 8) * BYTES);
        u32 at = 1 + lane % 8 * 2;
        return {block[0], block[at] | (u32)block[at + 1] << 16};
    }

    static __device__ inline FourFloats decode(Part part, u32, u32) {
        float scale = float_of_f16(part.scale);
        u32 quants = part.quants ^ 0x80808080u;
        return {scale * (small_float(quants & 0xff) - 128.0f), scale * (small_float(quants >> 8 & 0xff) - 128.0f),
                scale * (small_float(quants >> 16 & 0xff) - 128.0f), scale * (small_float(quants >> 24) - 128.0f)};
    }

    static __device__ inline u32 column(u32, u32 lane) { return 4 * lane; }
};

// 256 elements: f16 units of scales and of minima, both of 6 bits packed into twelve bytes, codes of 4 bits; two groups of 32
// share 32 bytes, low halves, then high halves. Blocks are aligned to sixteen bytes. A warp a block.
struct Q4_K {
    static const u32 BYTES = 144, ELEMENTS = 256, STEP = 256, QUADS = 2;

    struct Part {
        Words head;
        u32 codes;
    };

    static __device__ inline Part load(const u8* blocks, u64 step, u32 lane) {
        const u8* block = blocks + step * BYTES;
        return {*(const Words*)block, ((const u32*)(block + 16))[lane]};
    }

    static __device__ inline FourFloats decode(Part part, u32 quad, u32 lane) {
        u32 pair = lane / 8, a = part.head.y, b = part.head.z, c = part.head.w;
        u32 scales = pair < 2 ? a & 0x3f3f3f3fu : (c & 0x0f0f0f0fu) | (a >> 6 & 0x03030303u) << 4;
        u32 minima = pair < 2 ? b & 0x3f3f3f3fu : (c >> 4 & 0x0f0f0f0fu) | (b >> 6 & 0x03030303u) << 4;
        u32 byte = 8 * (pair % 2 * 2 + quad);
        float step = float_of_f16(part.head.x & 0xffff) * small_float(scales >> byte & 0xff);
        float shift = float_of_f16(part.head.x >> 16) * small_float(minima >> byte & 0xff);
        u32 codes = part.codes >> 4 * quad & 0x0f0f0f0fu;
        return {step * small_float(codes & 0xff) - shift, step * small_float(codes >> 8 & 0xff) - shift,
                step * small_float(codes >> 16 & 0xff) - shift, step * small_float(codes >> 24) - shift};
    }

    static __device__ inline u32 column(u32 quad, u32 lane) { return lane / 8 * 64 + quad * 32 + lane % 8 * 4; }
};

// Writes four elements, as they are or rounded to bfloat16.
__device__ inline void put_four(float* to, FourFloats four) { *(FourFloats*)to = four; }
__device__ inline void put_four(u16* to, FourFloats four) {
    *(FourHalves*)to = {rounded(four.x, four.y), rounded(four.z, four.w)};
}

// `count` elements, whole blocks. What a thread of a warp takes of a step is taken by one thread of the grid.
template <class Format, class Element>
__device__ inline void dequantize(Element* out, const u8* blocks, u64 count) {
    u64 parts = count / (4 * Format::QUADS);
    for (u64 i = thread_index(); i < parts; i += thread_count()) {
        u64 step = i / WARP;
        u32 lane = i % WARP;
        typename Format::Part part = Format::load(blocks, step, lane);
        for (u32 quad = 0; quad < Format::QUADS; quad++)
            put_four(out + step * Format::STEP + Format::column(quad, lane), Format::decode(part, quad, lane));
    }
}

// y (+)= x w^T for up to ROWS rows of x. A warp takes WEIGHTS rows of w, each byte once. Rows of x come through the first
// cache: all warps walk over the same columns, so a row comes from farther away about once a block, and shared memory would
// be no faster but need barriers. Each thread adds its columns in order, then the warp adds its threads: a row's results do not
// depend on the number of rows.
template <class Format, u32 ROWS, u32 WEIGHTS>
__device__ inline void product(float* y, const float* x, const u8* w, u32 rows, u32 inner, u32 outer, u32 accumulate) {
    // Steps whose bytes are asked for before the first of them is used.
    const u32 AHEAD = 4 / WEIGHTS;
    u32 lane = threadIdx.x % WARP;
    u64 first = thread_index() / WARP * WEIGHTS, row_bytes = (u64)(inner / Format::ELEMENTS) * Format::BYTES;
    if (first >= outer) return;
    const u8* weight_rows[WEIGHTS];
    // Where there are fewer rows, the last is taken again, and not written.
    UNROLL for (u32 n = 0; n < WEIGHTS; n++) weight_rows[n] = w + (first + n < outer ? first + n : outer - 1) * row_bytes;
    u32 starts[ROWS];
    UNROLL for (u32 row = 0; row < ROWS; row++) starts[row] = (row < rows ? row : rows - 1) * inner;
    float sums[WEIGHTS][ROWS] = {};
    u32 last = Format::column(0, lane);
    for (u32 start = 0; start < inner; start += AHEAD * Format::STEP) {
        typename Format::Part parts[AHEAD][WEIGHTS];
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ahead++) {
            u32 from = start + ahead * Format::STEP;
            if (from + last >= inner) continue;
            UNROLL for (u32 n = 0; n < WEIGHTS; n++)
                parts[ahead][n] = Format::load(weight_rows[n], from / Format::STEP, lane);
        }
        UNROLL for (u32 ahead = 0; ahead < AHEAD; ahead++) {
            u32 from = start + ahead * Format::STEP;
            if (from + last >= inner) continue;
            UNROLL for (u32 quad = 0; quad < Format::QUADS; quad++) {
                FourFloats weights[WEIGHTS];
                UNROLL for (u32 n = 0; n < WEIGHTS; n++) weights[n] = Format::decode(parts[ahead][n], quad, lane);
                u32 column = from + Format::column(quad, lane);
                UNROLL for (u32 row = 0; row < ROWS; row++) {
                    FourFloats v = *(const FourFloats*)(x + starts[row] + column);
                    UNROLL for (u32 n = 0; n < WEIGHTS; n++) {
                        float sum = fmaf(v.x, weights[n].x, sums[n][row]);
                        sum = fmaf(v.y, weights[n].y, sum);
                        sum = fmaf(v.z, weights[n].z, sum);
                        sums[n][row] = fmaf(v.w, weights[n].w, sum);
                    }
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

#define DEQUANTIZE(name, Format, Element)                                                               \
    extern "C" __global__ void name(Element* out, const u8* blocks, u64 first_byte, u64 count) {   \
        dequantize<Format>(out, blocks + first_byte, count);                                            \
    }                                                                                              \
    EXPORT(name)

DEQUANTIZE(dequantize_q8_0, Q8_0, float)
DEQUANTIZE(dequantize_q4_k, Q4_K, float)
DEQUANTIZE(dequantize_q8_0_rounded, Q8_0, u16)
DEQUANTIZE(dequantize_q4_k_rounded, Q4_K, u16)

// src/ops/quantized.rs knows how many rows of w a warp takes.
#define PRODUCT(name, Format, ROWS, WEIGHTS)                                                             \
    extern "C" __global__ void __launch_bounds__(128)                                                    \
        name(float* y, const float* x, const u8* w, u32 rows, u32 inner, u32 outer, u32 accumulate) {    \
        product<Format, ROWS, WEIGHTS>(y, x, w, rows, inner, outer, accumulate);                         \
    }                                                                                                    \
    EXPORT(name)

PRODUCT(product_q8_0_1, Q8_0, 1, 1)
PRODUCT(product_q8_0_2, Q8_0, 2, 2)
PRODUCT(product_q8_0_4, Q8_0, 4, 2)
PRODUCT(product_q8_0_8, Q8_0, 8, 4)
PRODUCT(product_q4_k_1, Q4_K, 1, 1)
PRODUCT(product_q4_k_2, Q4_K, 2, 2)
PRODUCT(product_q4_k_4, Q4_K, 4, 2)
PRODUCT(product_q4_k_8, Q4_K, 8, 4)

namespace {

// A block for each of `ids`: that row of the matrix, of `width` elements, as f32.
template <class Format>
__device__ inline void dequantize_row(float* out, const u8* blocks, const u32* ids, u32 width) {
    const u8* row = blocks + (u64)ids[blockIdx.x] * (width / Format::ELEMENTS) * Format::BYTES;
    out += (u64)blockIdx.x * width;
    for (u32 i = threadIdx.x; i < width / (4 * Format::QUADS); i += blockDim.x) {
        u32 step = i / WARP, lane = i % WARP;
        typename Format::Part part = Format::load(row, step, lane);
        for (u32 quad = 0; quad < Format::QUADS; quad++)
            put_four(out + step * Format::STEP + Format::column(quad, lane), Format::decode(part, quad, lane));
    }
}

}  // namespace

#define DEQUANTIZE_ROWS(name, Format)                                                                     \
    extern "C" __global__ void name(float* out, const u8* blocks, const u32* ids, u32 width) {       \
        dequantize_row<Format>(out, blocks, ids, width);                                                  \
    }                                                                                                \
    EXPORT(name)

DEQUANTIZE_ROWS(dequantize_rows_q8_0, Q8_0)
DEQUANTIZE_ROWS(dequantize_rows_q4_k, Q4_K)
