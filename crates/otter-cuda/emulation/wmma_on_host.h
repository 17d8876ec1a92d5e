// What kernels use of CUDA's mma.h and cuda_bf16.h, on the host. Results and sums are spread over the lanes of a warp, eight
// elements of a row each; of factors every lane keeps the whole tile. A collective that lanes leave out, and an address or
// stride that no GPU would take, end the process with a message.
#pragma once

#include <type_traits>

#include "cuda_on_host.h"

// bfloat16: the upper half of a float.
struct __nv_bfloat16 {
    unsigned short bits;
};

// The nearest, of two equally near the even one; every NaN becomes the same, as on GPUs.
inline __nv_bfloat16 __float2bfloat16_rn(float value) {
    unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {(unsigned short)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

inline float __bfloat162float(__nv_bfloat16 value) { return __uint_as_float((unsigned)value.bits << 16); }

namespace nvcuda {
namespace wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};

enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
    static_assert(M == 16 && N == 16 && K == 16, "tiles are 16 x 16 x 16");
    // Row by row, whatever the layout in memory.
    T tile[16][16];
};

// Row lane / 2, the half of it that lane % 2 says.
template <int M, int N, int K>
struct fragment<accumulator, M, N, K, float> {
    static_assert(M == 16 && N == 16 && K == 16, "tiles are 16 x 16 x 16");
    static const int num_elements = 8;
    float x[8];
};

namespace on_host {

inline unsigned lane() { return emulation::current->linear % 32; }

inline void check(const void* address, std::size_t row_bytes) {
    if (reinterpret_cast<std::uintptr_t>(address) % 32 != 0) emulation::fail("a tile that is not aligned to 32 bytes");
    if (row_bytes % 16 != 0) emulation::fail("rows of a tile that are no multiple of 16 bytes apart");
}

}  // namespace on_host

template <int M, int N, int K>
void fill_fragment(fragment<accumulator, M, N, K, float>& to, float value) {
    for (float& element : to.x) element = value;
}

template <class Use, int M, int N, int K, class T, class Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& to, const T* from, unsigned stride) {
    on_host::check(from, stride * sizeof(T));
    emulation::warp_barrier();
    const unsigned char* bytes = reinterpret_cast<const unsigned char*>(from);
    for (unsigned line = 0; line < 16; line++) {
        T elements[16];
        std::memcpy(elements, bytes + (std::size_t)line * stride * sizeof(T), sizeof(elements));
        for (unsigned at = 0; at < 16; at++) {
            if (std::is_same<Layout, row_major>::value) to.tile[line][at] = elements[at];
            else to.tile[at][line] = elements[at];
        }
    }
}

// Products are exact in f32; they are added in order.
template <int M, int N, int K, class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, M, N, K, float>& d, const fragment<matrix_a, M, N, K, __nv_bfloat16, LayoutA>& a,
              const fragment<matrix_b, M, N, K, __nv_bfloat16, LayoutB>& b,
              const fragment<accumulator, M, N, K, float>& c) {
    emulation::warp_barrier();
    unsigned row = on_host::lane() / 2, first = on_host::lane() % 2 * 8;
    for (unsigned i = 0; i < 8; i++) d.x[i] = c.x[i];
    for (unsigned k = 0; k < 16; k++) {
        float of_a = __bfloat162float(a.tile[row][k]);
        for (unsigned i = 0; i < 8; i++) d.x[i] += of_a * __bfloat162float(b.tile[k][first + i]);
    }
}

template <int M, int N, int K>
void store_matrix_sync(float* to, const fragment<accumulator, M, N, K, float>& from, unsigned stride, layout_t layout) {
    on_host::check(to, stride * sizeof(float));
    if (layout != mem_row_major) emulation::fail("results are stored row by row only");
    emulation::warp_barrier();
    float* part = to + on_host::lane() / 2 * stride + on_host::lane() % 2 * 8;
    std::memcpy(reinterpret_cast<unsigned char*>(part), from.x, sizeof(from.x));
}

}  // namespace wmma
}  // namespace nvcuda
