// Softmax attention on strided heads, forward and backward: the twin of otter-nn's backend/cpu/attention/.
//
// Blocks of threads take tiles of TILE query rows and TILE keys; the scores of a whole sequence are never stored. A
// tile's products are made from pieces of CHUNK columns in shared memory, 4 x 4 of them by every thread: thread (down,
// across) of 16 x 16 has the rows down * 4 + i and the columns across + 16 * j. Sums of weighted rows are 4 rows by
// GROUPS quads a thread, the quads 64 columns apart.
#include "common.cuh"

// Unrolled as far as a thread has registers for two blocks at a time.
#ifdef OTTER_EMULATE
#define UNROLL
#define UNROLL_TWICE
#define KEEP_LOOP
#else
#define UNROLL _Pragma("unroll")
#define UNROLL_TWICE _Pragma("unroll 2")
#define KEEP_LOOP _Pragma("unroll 1")
#endif

// src/ops/attention.rs knows the same number.
#define TILE 64u
#define CHUNK 32u
#define SIDE 16u
// Floats from row to row of a chunk and of a tile of weights in shared memory, so that quads of 8 rows lie in all
// banks.
#define CHUNK_STRIDE (CHUNK + 4u)
#define WEIGHT_STRIDE (TILE + 4u)
// Quads of shared memory for a chunk of two operands (CHUNK rows of 128 columns fit as well), and for a tile of
// weights.
#define ROOM_QUADS (2u * TILE * CHUNK_STRIDE / 4u)
#define WEIGHT_QUADS (TILE * WEIGHT_STRIDE / 4u)
// Keys that a block looks at together for a single query row: 8 threads each.
#define ROW_KEYS 32u
#define ROW_LANES 8u

// For kernels of THREADS threads, of which a multiprocessor is to hold so many blocks.
#define BOUNDS(blocks) __launch_bounds__(THREADS, blocks)

namespace {

// Four numbers that are moved at once.
struct alignas(16) Four {
    float x, y, z, w;
};

// Element (batch, row, head, feature) is at offset + batch * batch_stride + row * row_stride + head * head_stride +
// feature.
struct HeadStrides {
    u64 offset, batch_stride, row_stride, head_stride;
};

// Rows of one batch entry that attend one contiguous block of keys. Query row i of the entry sees keys up to row i +
// offset of the keys' entry where `causal` is not 0.
struct Span {
    u64 batch, row, rows, key_batch, key_row, keys, causal, offset;
};

// Keys [first, first + keys) of the block that begins at `key_row`, and the spans that attend this block.
struct KeyTile {
    u64 key_batch, key_row, first, keys, first_span, spans, unused[2];
};

// What a plan begins with.
struct AllStrides {
    HeadStrides q, k, v, out, dk, dv;
};

struct Inputs {
    const float *q, *k, *v;
    // Of every key row of an entry of `visible_keys`, whether it may be seen; null where all may.
    const u8* visible;
    // Of every query head, or null.
    const float* slopes;
    // AllStrides, then records of spans and tiles.
    const u64* plan;
    u64 records, visible_keys;
    // `group` query heads use one key head; `vector` says that all strides keep quads together.
    u32 heads, group, size, vector;
    float scale;
};

#define INPUT_PARAMETERS                                                                                     \
    const float *q, const float *k, const float *v, const u8 *visible, const float *slopes, const u64 *plan, \
        u64 records, u64 visible_keys, u32 heads, u32 group, u32 size, u32 vector, float scale
#define INPUTS \
    Inputs { q, k, v, visible, slopes, plan, records, visible_keys, heads, group, size, vector, scale }

__device__ inline const AllStrides& strides_of(const Inputs& in) { return *reinterpret_cast<const AllStrides*>(in.plan); }

__device__ inline const Span* spans_at(const Inputs& in, u64 place) {
    return reinterpret_cast<const Span*>(in.plan + place);
}

__device__ inline u64 place_of(const HeadStrides& strides, u64 batch, u64 row, u64 head) {
    return strides.offset + batch * strides.batch_stride + row * strides.row_stride + head * strides.head_stride;
}

// Rows of one head in memory.
struct Rows {
    const float* first;
    u64 stride;
    u32 count;
};

__device__ inline Rows rows_of(const float* data, const HeadStrides& strides, u64 batch, u64 row, u32 head, u32 count) {
    return Rows{data + place_of(strides, batch, row, head), strides.row_stride, count};
}

__device__ inline Four& four(float* at) { return *reinterpret_cast<Four*>(at); }
__device__ inline const Four& four(const float* at) { return *reinterpret_cast<const Four*>(at); }

// Columns [column, column + 4) of a row, zeros behind its end.
__device__ inline Four quad_of(const float* row, u32 column, u32 size, u32 vector) {
    Four quad = {0.0f, 0.0f, 0.0f, 0.0f};
    if (vector) {
        if (column < size) quad = four(row + column);
    } else {
        if (column < size) quad.x = row[column];
        if (column + 1 < size) quad.y = row[column + 1];
        if (column + 2 < size) quad.z = row[column + 2];
        if (column + 3 < size) quad.w = row[column + 3];
    }
    return quad;
}

// Copies COLUMNS columns of COUNT rows from `first` and `column` on into shared memory, with zeros where there are
// none.
template <u32 COUNT, u32 COLUMNS>
__device__ inline void load(float* room, u32 room_stride, const Rows& rows, u32 first, u32 column, u32 size,
                            u32 vector) {
    if (vector) {
        UNROLL_TWICE for (u32 i = threadIdx.x; i < COUNT * COLUMNS / 4; i += THREADS) {
            u32 row = i / (COLUMNS / 4), at = i % (COLUMNS / 4) * 4;
            Four quad = {0.0f, 0.0f, 0.0f, 0.0f};
            if (first + row < rows.count && column + at < size)
                quad = four(rows.first + (first + row) * rows.stride + column + at);
            four(room + row * room_stride + at) = quad;
        }
    } else {
        UNROLL_TWICE for (u32 i = threadIdx.x; i < COUNT * COLUMNS; i += THREADS) {
            u32 row = i / COLUMNS, at = i % COLUMNS;
            bool there = first + row < rows.count && column + at < size;
            room[row * room_stride + at] = there ? rows.first[(first + row) * rows.stride + column + at] : 0.0f;
        }
    }
}

// Products of up to TILE rows a (down) with as many rows b (across). Begins with a barrier: what other threads read
// from `room`, and from weights, was read when this returns.
__device__ inline void products(float (&s)[4][4], float* room, const Rows& a, const Rows& b, u32 size, u32 vector) {
    const u32 across = threadIdx.x % SIDE, down = threadIdx.x / SIDE;
    float* other = room + TILE * CHUNK_STRIDE;
    for (u32 i = 0; i < 4; i++)
        for (u32 j = 0; j < 4; j++) s[i][j] = 0.0f;
    for (u32 column = 0; column < size; column += CHUNK) {
        __syncthreads();
        load<TILE, CHUNK>(room, CHUNK_STRIDE, a, 0, column, size, vector);
        load<TILE, CHUNK>(other, CHUNK_STRIDE, b, 0, column, size, vector);
        __syncthreads();
        KEEP_LOOP for (u32 at = 0; at < CHUNK; at += 4) {
            Four x[4], y[4];
            UNROLL for (u32 i = 0; i < 4; i++) {
                x[i] = four(room + (down * 4 + i) * CHUNK_STRIDE + at);
                y[i] = four(other + (across + SIDE * i) * CHUNK_STRIDE + at);
            }
            UNROLL for (u32 i = 0; i < 4; i++)
                UNROLL for (u32 j = 0; j < 4; j++) {
                    s[i][j] += x[i].x * y[j].x;
                    s[i][j] += x[i].y * y[j].y;
                    s[i][j] += x[i].z * y[j].z;
                    s[i][j] += x[i].w * y[j].w;
                }
        }
    }
}

__device__ inline void add_product(Four& sum, float weight, const Four& x) {
    sum.x += weight * x.x;
    sum.y += weight * x.y;
    sum.z += weight * x.z;
    sum.w += weight * x.w;
}

__device__ inline void scale_by(Four& sum, float factor) {
    sum = Four{sum.x * factor, sum.y * factor, sum.z * factor, sum.w * factor};
}

// Adds up to TILE rows, weighted by each row of `weights`, to sums of four rows of weights a thread. Weights may be
// written right before: this begins with a barrier.
template <u32 GROUPS>
__device__ inline void add_weighted(Four (&sums)[4][GROUPS], const float* weights, float* room, const Rows& rows,
                                    u32 size, u32 vector) {
    const u32 width = GROUPS * 4 * SIDE, across = threadIdx.x % SIDE, down = threadIdx.x / SIDE;
    for (u32 first = 0; first < rows.count; first += CHUNK) {
        __syncthreads();
        load<CHUNK, width>(room, width, rows, first, 0, size, vector);
        __syncthreads();
        KEEP_LOOP for (u32 row = 0; row < CHUNK; row += 4) {
            Four weight[4];
            const float* from = weights + down * 4 * WEIGHT_STRIDE + first + row;
            UNROLL for (u32 i = 0; i < 4; i++) weight[i] = four(from + i * WEIGHT_STRIDE);
            UNROLL for (u32 group = 0; group < GROUPS; group++) {
                const float* column = room + row * width + group * 4 * SIDE + across * 4;
                Four x = four(column), y = four(column + width);
                Four z = four(column + 2 * width), w = four(column + 3 * width);
                UNROLL for (u32 i = 0; i < 4; i++) {
                    add_product(sums[i][group], weight[i].x, x);
                    add_product(sums[i][group], weight[i].y, y);
                    add_product(sums[i][group], weight[i].z, z);
                    add_product(sums[i][group], weight[i].w, w);
                }
            }
        }
    }
}

template <u32 GROUPS>
__device__ inline void clear(Four (&sums)[4][GROUPS]) {
    for (u32 i = 0; i < 4; i++)
        for (u32 group = 0; group < GROUPS; group++) sums[i][group] = Four{0.0f, 0.0f, 0.0f, 0.0f};
}

// Sums times a factor of each row, to (ADD: added to) `count` rows from `first` on.
template <u32 GROUPS, bool ADD>
__device__ inline void store(const Four (&sums)[4][GROUPS], const float (&factors)[4], float* first, u64 stride,
                             u32 count, u32 size, u32 vector) {
    const u32 across = threadIdx.x % SIDE, down = threadIdx.x / SIDE;
    UNROLL for (u32 i = 0; i < 4; i++)
        UNROLL for (u32 group = 0; group < GROUPS; group++) {
            const u32 column = group * 4 * SIDE + across * 4;
            if (down * 4 + i >= count || column >= size) continue;
            float* at = first + (down * 4 + i) * stride + column;
            Four sum = {0.0f, 0.0f, 0.0f, 0.0f};
            if (ADD) sum = quad_of(at, 0, size - column, vector);
            add_product(sum, factors[i], sums[i][group]);
            if (vector) {
                four(at) = sum;
                continue;
            }
            at[0] = sum.x;
            if (column + 1 < size) at[1] = sum.y;
            if (column + 2 < size) at[2] = sum.z;
            if (column + 3 < size) at[3] = sum.w;
        }
}

// Keys of the span that a query row sees, hidden ones among them.
__device__ inline u32 seen_keys(const Span& span, u64 row) {
    if (!span.causal) return (u32)span.keys;
    u64 keys = row + span.offset + 1 - span.key_row;
    return (u32)(keys < span.keys ? keys : span.keys);
}

// Whether a key of the block that begins at `key_row` may be seen.
__device__ inline bool is_visible(const Inputs& in, u64 key_batch, u64 key_row, u64 key) {
    return !in.visible || in.visible[key_batch * in.visible_keys + key_row + key];
}

// Where a query row stands among the span's keys: the origin of the position bias.
__device__ inline float position_of(const Span& span, u64 row) {
    return (float)((long long)(row + span.offset) - (long long)span.key_row);
}

__device__ inline float slope_of(const Inputs& in, u32 head) { return in.slopes ? in.slopes[head] : 0.0f; }

__device__ inline float score_of(const Inputs& in, float product, float slope, u32 key, float position) {
    float score = product * in.scale;
    return in.slopes ? score + slope * ((float)key - position) : score;
}

// A block for each tile of query rows and each head.
template <u32 GROUPS>
__device__ inline void forward_tile(const Inputs& in, float* out, float* log_sum_exp, u64 log_rows) {
    __shared__ Four room_quads[ROOM_QUADS], weight_quads[WEIGHT_QUADS];
    float *room = &room_quads[0].x, *weights = &weight_quads[0].x;
    const AllStrides& strides = strides_of(in);
    const Span span = spans_at(in, in.records)[blockIdx.x];
    const u32 head = blockIdx.y, key_head = head / in.group, count = (u32)span.rows;
    const u32 across = threadIdx.x % SIDE, down = threadIdx.x / SIDE;
    const float slope = slope_of(in, head);
    const Rows q = rows_of(in.q, strides.q, span.batch, span.row, head, count);
    u32 seen[4];
    // Sums are those of this thread's columns until the end.
    float position[4], largest[4], sum[4];
    Four sums[4][GROUPS];
    clear(sums);
    for (u32 i = 0; i < 4; i++) {
        u64 row = span.row + down * 4 + i;
        seen[i] = seen_keys(span, row);
        position[i] = position_of(span, row);
        largest[i] = -INFINITY;
        sum[i] = 0.0f;
    }
    const u32 keys = seen_keys(span, span.row + count - 1);
    for (u32 first = 0; first < keys; first += TILE) {
        const u32 tile = min(TILE, keys - first);
        float s[4][4];
        const Rows k = rows_of(in.k, strides.k, span.key_batch, span.key_row + first, key_head, tile);
        products(s, room, q, k, in.size, in.vector);
        bool visible[4];
        for (u32 j = 0; j < 4; j++) {
            u32 at = across + SIDE * j;
            visible[j] = at < tile && is_visible(in, span.key_batch, span.key_row, first + at);
        }
        UNROLL for (u32 i = 0; i < 4; i++) {
            float tile_largest = largest[i];
            UNROLL for (u32 j = 0; j < 4; j++) {
                u32 key = first + across + SIDE * j;
                bool sees = visible[j] && key < seen[i];
                s[i][j] = sees ? score_of(in, s[i][j], slope, key, position[i]) : -INFINITY;
                tile_largest = fmaxf(tile_largest, s[i][j]);
            }
            for (int distance = SIDE / 2; distance > 0; distance /= 2)
                tile_largest = fmaxf(tile_largest, __shfl_xor_sync(0xffffffffu, tile_largest, distance));
            // Where nothing was seen yet there is nothing to correct; a NaN stays one.
            const float correction = largest[i] == tile_largest ? 1.0f : expf(largest[i] - tile_largest);
            largest[i] = tile_largest;
            sum[i] *= correction;
            UNROLL for (u32 group = 0; group < GROUPS; group++) scale_by(sums[i][group], correction);
            UNROLL for (u32 j = 0; j < 4; j++) {
                // Zero of what is hidden; NaN where what is seen has no number.
                const bool sees = visible[j] && first + across + SIDE * j < seen[i];
                const float p = sees ? expf(s[i][j] - tile_largest) : 0.0f;
                sum[i] += p;
                weights[(down * 4 + i) * WEIGHT_STRIDE + across + SIDE * j] = p;
            }
        }
        const Rows v = rows_of(in.v, strides.v, span.key_batch, span.key_row + first, key_head, tile);
        add_weighted<GROUPS>(sums, weights, room, v, in.size, in.vector);
    }
    float factors[4];
    for (u32 i = 0; i < 4; i++) {
        for (int distance = SIDE / 2; distance > 0; distance /= 2)
            sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], distance);
        factors[i] = sum[i] == 0.0f ? 0.0f : 1.0f / sum[i];
        u32 row = down * 4 + i;
        if (log_sum_exp && across == 0 && row < count)
            log_sum_exp[(span.batch * in.heads + head) * log_rows + span.row + row] =
                sum[i] == 0.0f ? 0.0f : largest[i] + logf(sum[i]);
    }
    float* to = out + place_of(strides.out, span.batch, span.row, head);
    store<GROUPS, false>(sums, factors, to, strides.out.row_stride, count, in.size, in.vector);
}

}  // namespace

// The numbers in the names are the largest head sizes.
extern "C" __global__ void BOUNDS(2) attention_forward_64(
    float* out, float* log_sum_exp, u64 log_rows, INPUT_PARAMETERS) {
    forward_tile<1>(INPUTS, out, log_sum_exp, log_rows);
}
EXPORT(attention_forward_64)

extern "C" __global__ void BOUNDS(2) attention_forward_128(
    float* out, float* log_sum_exp, u64 log_rows, INPUT_PARAMETERS) {
    forward_tile<2>(INPUTS, out, log_sum_exp, log_rows);
}
EXPORT(attention_forward_128)

// A block for each query row (spans of one row) and each head: every 8 threads take one key of 32, and what the 32
// have summed up is put together at the end.
extern "C" __global__ void BOUNDS(2) attention_forward_row(
    float* out, float* log_sum_exp, u64 log_rows, INPUT_PARAMETERS) {
    __shared__ Four room[ROW_KEYS * 4 * ROW_LANES];
    __shared__ float room_largest[ROW_KEYS], room_sum[ROW_KEYS];
    const Inputs in = INPUTS;
    const AllStrides& strides = strides_of(in);
    const Span span = spans_at(in, records)[blockIdx.x];
    const u32 head = blockIdx.y, key_head = head / group;
    const u32 lane = threadIdx.x % ROW_LANES, mine = threadIdx.x / ROW_LANES;
    const float slope = slope_of(in, head), position = position_of(span, span.row);
    const float* query = q + place_of(strides.q, span.batch, span.row, head);
    Four x[4], sums[4];
    for (u32 i = 0; i < 4; i++) {
        x[i] = quad_of(query, (lane + ROW_LANES * i) * 4, size, vector);
        sums[i] = Four{0.0f, 0.0f, 0.0f, 0.0f};
    }
    float largest = -INFINITY, sum = 0.0f;
    const u32 keys = seen_keys(span, span.row);
    for (u32 first = 0; first < keys; first += ROW_KEYS) {
        const u32 key = first + mine;
        const bool there = key < keys;
        Four value[4];
        float product = 0.0f;
        if (there) {
            const float* k_row = k + place_of(strides.k, span.key_batch, span.key_row + key, key_head);
            const float* v_row = v + place_of(strides.v, span.key_batch, span.key_row + key, key_head);
            UNROLL for (u32 i = 0; i < 4; i++) {
                const u32 column = (lane + ROW_LANES * i) * 4;
                Four y = quad_of(k_row, column, size, vector);
                value[i] = quad_of(v_row, column, size, vector);
                product += x[i].x * y.x;
                product += x[i].y * y.y;
                product += x[i].z * y.z;
                product += x[i].w * y.w;
            }
        }
        for (int distance = ROW_LANES / 2; distance > 0; distance /= 2)
            product += __shfl_xor_sync(0xffffffffu, product, distance);
        if (!there || !is_visible(in, span.key_batch, span.key_row, key)) continue;
        const float score = score_of(in, product, slope, key, position), larger = fmaxf(largest, score);
        const float correction = largest == larger ? 1.0f : expf(largest - larger);
        const float p = expf(score - larger);
        largest = larger;
        sum = sum * correction + p;
        UNROLL for (u32 i = 0; i < 4; i++) {
            scale_by(sums[i], correction);
            add_product(sums[i], p, value[i]);
        }
    }
    for (u32 i = 0; i < 4; i++) room[mine * 4 * ROW_LANES + lane + ROW_LANES * i] = sums[i];
    if (lane == 0) {
        room_largest[mine] = largest;
        room_sum[mine] = sum;
    }
    __syncthreads();
    largest = room_largest[0];
    for (u32 i = 1; i < ROW_KEYS; i++) largest = fmaxf(largest, room_largest[i]);
    sum = 0.0f;
    float element = 0.0f;
    const float* elements = &room[0].x + threadIdx.x % (16 * ROW_LANES);
    for (u32 i = 0; i < ROW_KEYS; i++) {
        const float factor = room_largest[i] == largest ? 1.0f : expf(room_largest[i] - largest);
        sum += room_sum[i] * factor;
        element += elements[i * 16 * ROW_LANES] * factor;
    }
    if (threadIdx.x < size)
        out[place_of(strides.out, span.batch, span.row, head) + threadIdx.x] = sum == 0.0f ? 0.0f : element / sum;
    if (log_sum_exp && threadIdx.x == 0)
        log_sum_exp[(span.batch * heads + head) * log_rows + span.row] = sum == 0.0f ? 0.0f : largest + logf(sum);
}
EXPORT(attention_forward_row)

// Sums of the products of an output's rows and their gradients, where the log-sum-exps of the rows are too: a warp for
// each row.
extern "C" __global__ void BOUNDS(2) attention_dots(
    float* dots, const float* out, const float* d_out, u64 log_rows, const u64* plan, u64 records, u32 heads,
    u32 size) {
    const HeadStrides& strides = reinterpret_cast<const AllStrides*>(plan)->out;
    const Span span = reinterpret_cast<const Span*>(plan + records)[blockIdx.x];
    const u32 head = blockIdx.y, lane = threadIdx.x % WARP;
    for (u32 row = threadIdx.x / WARP; row < span.rows; row += THREADS / WARP) {
        u64 place = place_of(strides, span.batch, span.row + row, head);
        float sum = 0.0f;
        for (u32 i = lane; i < size; i += WARP) sum += out[place + i] * d_out[place + i];
        sum = warp_sum(sum);
        if (lane == 0) dots[(span.batch * heads + head) * log_rows + span.row + row] = sum;
    }
}
EXPORT(attention_dots)

namespace {

// Gradient of the queries: a block for each tile of query rows and each head.
template <u32 GROUPS>
__device__ inline void queries_tile(const Inputs& in, float* dq, const float* d_out, const float* log_sum_exp,
                                    const float* dots, u64 log_rows) {
    __shared__ Four room_quads[ROOM_QUADS], weight_quads[WEIGHT_QUADS];
    float *room = &room_quads[0].x, *weights = &weight_quads[0].x;
    const AllStrides& strides = strides_of(in);
    const Span span = spans_at(in, in.records)[blockIdx.x];
    const u32 head = blockIdx.y, key_head = head / in.group, count = (u32)span.rows;
    const u32 across = threadIdx.x % SIDE, down = threadIdx.x / SIDE;
    const float slope = slope_of(in, head);
    const Rows q = rows_of(in.q, strides.q, span.batch, span.row, head, count);
    const Rows dy = rows_of(d_out, strides.out, span.batch, span.row, head, count);
    u32 seen[4];
    float position[4], log_sum[4], dot[4], factors[4];
    Four sums[4][GROUPS];
    clear(sums);
    for (u32 i = 0; i < 4; i++) {
        const u64 row = span.row + down * 4 + i, place = (span.batch * in.heads + head) * log_rows + row;
        const bool there = down * 4 + i < count;
        seen[i] = there ? seen_keys(span, row) : 0;
        position[i] = position_of(span, row);
        log_sum[i] = there ? log_sum_exp[place] : 0.0f;
        dot[i] = there ? dots[place] : 0.0f;
        factors[i] = in.scale;
    }
    const u32 keys = seen_keys(span, span.row + count - 1);
    for (u32 first = 0; first < keys; first += TILE) {
        const u32 tile = min(TILE, keys - first);
        const Rows k = rows_of(in.k, strides.k, span.key_batch, span.key_row + first, key_head, tile);
        const Rows v = rows_of(in.v, strides.v, span.key_batch, span.key_row + first, key_head, tile);
        float p[4][4], d[4][4];
        products(p, room, q, k, in.size, in.vector);
        products(d, room, dy, v, in.size, in.vector);
        UNROLL for (u32 j = 0; j < 4; j++) {
            const u32 at = across + SIDE * j, key = first + at;
            const bool visible = at < tile && is_visible(in, span.key_batch, span.key_row, key);
            UNROLL for (u32 i = 0; i < 4; i++) {
                float ds = 0.0f;
                if (visible && key < seen[i])
                    ds = expf(score_of(in, p[i][j], slope, key, position[i]) - log_sum[i]) * (d[i][j] - dot[i]);
                weights[(down * 4 + i) * WEIGHT_STRIDE + at] = ds;
            }
        }
        add_weighted<GROUPS>(sums, weights, room, k, in.size, in.vector);
    }
    float* to = dq + place_of(strides.q, span.batch, span.row, head);
    store<GROUPS, true>(sums, factors, to, strides.q.row_stride, count, in.size, in.vector);
}

}  // namespace

extern "C" __global__ void BOUNDS(2) attention_queries_64(
    float* dq, const float* d_out, const float* log_sum_exp, const float* dots, u64 log_rows, INPUT_PARAMETERS) {
    queries_tile<1>(INPUTS, dq, d_out, log_sum_exp, dots, log_rows);
}
EXPORT(attention_queries_64)

extern "C" __global__ void BOUNDS(2) attention_queries_128(
    float* dq, const float* d_out, const float* log_sum_exp, const float* dots, u64 log_rows, INPUT_PARAMETERS) {
    queries_tile<2>(INPUTS, dq, d_out, log_sum_exp, dots, log_rows);
}
EXPORT(attention_queries_128)

namespace {

// Gradients of keys and values: a block for each tile of keys and each key head takes all rows that see them, in the
// order of spans, heads and rows. Here the keys are down and the query rows across.
template <u32 GROUPS>
__device__ inline void keys_tile(const Inputs& in, float* dk, float* dv, const float* d_out, const float* log_sum_exp,
                                 const float* dots, u64 log_rows, u64 spans) {
    __shared__ Four room_quads[ROOM_QUADS], weight_quads[WEIGHT_QUADS];
    float *room = &room_quads[0].x, *weights = &weight_quads[0].x;
    const AllStrides& strides = strides_of(in);
    const KeyTile tile = reinterpret_cast<const KeyTile*>(in.plan + in.records)[blockIdx.x];
    const u32 key_head = blockIdx.y, first_key = (u32)tile.first, count = (u32)tile.keys;
    const u32 across = threadIdx.x % SIDE, down = threadIdx.x / SIDE;
    const Rows k = rows_of(in.k, strides.k, tile.key_batch, tile.key_row + first_key, key_head, count);
    const Rows v = rows_of(in.v, strides.v, tile.key_batch, tile.key_row + first_key, key_head, count);
    Four k_sums[4][GROUPS], v_sums[4][GROUPS];
    clear(k_sums);
    clear(v_sums);
    bool visible[4];
    for (u32 i = 0; i < 4; i++) {
        u32 at = down * 4 + i;
        visible[i] = at < count && is_visible(in, tile.key_batch, tile.key_row, first_key + at);
    }
    for (u64 each = 0; each < tile.spans; each++) {
        const Span span = spans_at(in, spans)[tile.first_span + each];
        if (span.keys <= first_key) continue;
        u64 start = span.row;
        const u64 end = span.row + span.rows;
        // The first row that sees the first key of the tile.
        const u64 key = tile.key_row + first_key;
        if (span.causal && key > start + span.offset) start = key - span.offset;
        for (u32 head = key_head * in.group; head < (key_head + 1) * in.group; head++) {
            const float slope = slope_of(in, head);
            for (u64 first = start; first < end; first += TILE) {
                const u32 rows = (u32)(end - first < TILE ? end - first : TILE);
                const Rows q = rows_of(in.q, strides.q, span.batch, first, head, rows);
                const Rows dy = rows_of(d_out, strides.out, span.batch, first, head, rows);
                float p[4][4], d[4][4];
                products(p, room, k, q, in.size, in.vector);
                UNROLL for (u32 j = 0; j < 4; j++) {
                    const u32 at = across + SIDE * j;
                    const u64 row = first + at;
                    const bool there = at < rows;
                    const u32 seen = there ? seen_keys(span, row) : 0;
                    const float log_sum = there ? log_sum_exp[(span.batch * in.heads + head) * log_rows + row] : 0.0f;
                    const float position = position_of(span, row);
                    UNROLL for (u32 i = 0; i < 4; i++) {
                        const u32 key = first_key + down * 4 + i;
                        const bool sees = visible[i] && key < seen;
                        p[i][j] = sees ? expf(score_of(in, p[i][j], slope, key, position) - log_sum) : 0.0f;
                        weights[(down * 4 + i) * WEIGHT_STRIDE + at] = p[i][j];
                    }
                }
                add_weighted<GROUPS>(v_sums, weights, room, dy, in.size, in.vector);
                products(d, room, v, dy, in.size, in.vector);
                UNROLL for (u32 j = 0; j < 4; j++) {
                    const u32 at = across + SIDE * j;
                    const float dot = at < rows ? dots[(span.batch * in.heads + head) * log_rows + first + at] : 0.0f;
                    UNROLL for (u32 i = 0; i < 4; i++)
                        weights[(down * 4 + i) * WEIGHT_STRIDE + at] = p[i][j] * (d[i][j] - dot);
                }
                add_weighted<GROUPS>(k_sums, weights, room, q, in.size, in.vector);
            }
        }
    }
    const float one[4] = {1.0f, 1.0f, 1.0f, 1.0f}, scale[4] = {in.scale, in.scale, in.scale, in.scale};
    const u64 row = tile.key_row + first_key;
    float* to = dk + place_of(strides.dk, tile.key_batch, row, key_head);
    store<GROUPS, true>(k_sums, scale, to, strides.dk.row_stride, count, in.size, in.vector);
    to = dv + place_of(strides.dv, tile.key_batch, row, key_head);
    store<GROUPS, true>(v_sums, one, to, strides.dv.row_stride, count, in.size, in.vector);
}

}  // namespace

extern "C" __global__ void BOUNDS(2) attention_keys_64(
    float* dk, float* dv, const float* d_out, const float* log_sum_exp, const float* dots, u64 log_rows, u64 spans,
    INPUT_PARAMETERS) {
    keys_tile<1>(INPUTS, dk, dv, d_out, log_sum_exp, dots, log_rows, spans);
}
EXPORT(attention_keys_64)

extern "C" __global__ void BOUNDS(1) attention_keys_128(
    float* dk, float* dv, const float* d_out, const float* log_sum_exp, const float* dots, u64 log_rows, u64 spans,
    INPUT_PARAMETERS) {
    keys_tile<2>(INPUTS, dk, dv, d_out, log_sum_exp, dots, log_rows, spans);
}
EXPORT(attention_keys_128)
