// Goes before the text of every kernel file (compile.sh, -include). It includes nothing, so no CUDA toolkit is needed: clang compiles it with -nocudainc -nocudalib.
// A host compiler reads the kernels behind an emulation of the first half of this file instead (ERNIE_EMULATION).
//
// Conventions of all kernels
//   * extern "C", parameters are pointers to device memory, 32-bit integers and floats. A pointer that may be null says so.
//   * A kernel begins with await_previous().
//   * The comment above a kernel states grid, block and dynamic shared memory. Blocks have one dimension.
//   * Products and sums round one by one (-ffp-contract=off); where a fused one is meant, fused() is written. What one token gets does not depend on the other tokens of a launch.
#if !defined(ERNIE_EMULATION)

typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

#define DEVICE static inline __attribute__((device, always_inline))
#define KERNEL(threads) extern "C" __attribute__((global, launch_bounds(threads))) void

DEVICE int thread_x() { return (int)__nvvm_read_ptx_sreg_tid_x(); }
DEVICE int block_x() { return (int)__nvvm_read_ptx_sreg_ctaid_x(); }
DEVICE int block_y() { return (int)__nvvm_read_ptx_sreg_ctaid_y(); }
DEVICE int block_z() { return (int)__nvvm_read_ptx_sreg_ctaid_z(); }
DEVICE void sync_threads() { asm volatile("bar.sync 0;" ::: "memory"); }
DEVICE void sync_warp() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

// Dynamic shared memory of the block, aligned to 16 bytes.
extern __attribute__((shared, aligned(16))) u8 dynamic_shared[];
template <class T> DEVICE T* shared() { return (T*)dynamic_shared; }

DEVICE u32 shuffle_xor(u32 value, int lanes)
{
    u32 result;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(result) : "r"(value), "r"(lanes));
    return result;
}

// The value of another lane.
DEVICE u32 shuffle(u32 value, int lane)
{
    u32 result;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=r"(result) : "r"(value), "r"(lane));
    return result;
}

// Lanes of the warp where the condition holds.
DEVICE u32 ballot(bool condition)
{
    u32 result;
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %1, 0; vote.sync.ballot.b32 %0, p, 0xffffffff; }" : "=r"(result) : "r"((u32)condition));
    return result;
}

// Lanes of the warp that have the same value.
DEVICE u32 match(u32 value)
{
    u32 result;
    asm volatile("match.any.sync.b32 %0, %1, 0xffffffff;" : "=r"(result) : "r"(value));
    return result;
}

DEVICE void atomic_or(u32* target, u32 bits) { asm volatile("red.or.b32 [%0], %1;" :: "l"(target), "r"(bits) : "memory"); }
DEVICE void atomic_add(u32* target, u32 value) { asm volatile("red.add.u32 [%0], %1;" :: "l"(target), "r"(value) : "memory"); }
DEVICE void atomic_add(u64* target, u64 value) { asm volatile("red.add.u64 [%0], %1;" :: "l"(target), "l"(value) : "memory"); }

DEVICE float half_to_float(u16 bits)
{
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(bits));
    return result;
}

// 2^x; 2 units in the last place.
DEVICE float power_of_two(float x)
{
    float result;
    asm("ex2.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// log2 x; 2^-22 absolute near 1.
DEVICE float binary_logarithm(float x)
{
    float result;
    asm("lg2.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
}

// Bytes 0..3 are those of a, 4..7 those of b; each nibble of the selector takes one.
DEVICE u32 byte_permute(u32 a, u32 b, u32 selector)
{
    u32 result;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(selector));
    return result;
}

// Every kernel begins with it: what was launched before is done and seen then, and what is launched next may take its place on the GPU and wait in turn. Before it a kernel may look at nothing but weights.
// Where a launch does not ask for overlap, and on targets that have none, it is already so. (Programmatic dependent launch: CudaFunction.Launch.)
DEVICE void await_previous()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Asks for 128 bytes of device memory to be brought near.
DEVICE void prefetch(const void* address) { asm volatile("prefetch.global.L2 [%0];" :: "l"(address)); }

// Copies 16 bytes of device memory to shared memory, some time before the wait that names their group. Both addresses are multiples of 16.
DEVICE void copy_async(u8* target, const u8* source)
{
    const u32 address = (u32)(u64)(__attribute__((address_space(3))) u8*)target;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"(address), "l"(source) : "memory");
}
DEVICE void copy_async_8(u8* target, const u8* source)
{
    const u32 address = (u32)(u64)(__attribute__((address_space(3))) u8*)target;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" :: "r"(address), "l"(source) : "memory");
}
// What this thread has asked for since the last call becomes a group.
DEVICE void copies_asked() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until only the newest groups of this thread are still on their way. Others see what it copied after a barrier.
template <int Newest> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" :: "n"(Newest) : "memory"); }

// c[16, 8] += a[16, 16] · b[16, 8], bfloat16. With g = lane / 4 and t = lane % 4:
//   a[0] = a(g, 2t) a(g, 2t+1)     a[1] = a(g+8, 2t ..)     a[2] = a(g, 2t+8 ..)     a[3] = a(g+8, 2t+8 ..)
//   b[0] = b(2t, g) b(2t+1, g)     b[1] = b(2t+8 .., g)     c = c(g, 2t) c(g, 2t+1) c(g+8, 2t) c(g+8, 2t+1)
DEVICE void mma_bf16(float* c, const u32* a, const u32* b)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// c[16, 8] += a[16, 32] · b[32, 8], unsigned by signed bytes.
//   a[0] = a(g, 4t .. 4t+3)     a[1] = a(g+8, 4t ..)     a[2] = a(g, 4t+16 ..)     a[3] = a(g+8, 4t+16 ..)     b[0] = b(4t .. 4t+3, g)     b[1] = b(4t+16 .., g)
DEVICE void mma_u8s8(int* c, const u32* a, const u32* b)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif

#define UNROLL _Pragma("unroll")

DEVICE int lane_index() { return thread_x() & 31; }
DEVICE int warp_index() { return thread_x() >> 5; }

DEVICE u32 float_bits(float x) { return __builtin_bit_cast(u32, x); }
DEVICE float bits_float(u32 x) { return __builtin_bit_cast(float, x); }
DEVICE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
DEVICE float round_even(float x) { return __builtin_rintf(x); }
DEVICE float magnitude(float x) { return __builtin_fabsf(x); }
DEVICE int least(int a, int b) { return a < b ? a : b; }
// A NaN never wins.
DEVICE float larger(float a, float b) { return b > a ? b : a; }

DEVICE float infinity() { return bits_float(0x7f800000u); }
DEVICE float not_a_number() { return bits_float(0x7fc00000u); }
DEVICE bool is_finite(float x) { return (float_bits(x) & 0x7f800000u) != 0x7f800000u; }

DEVICE float shuffle_xor(float value, int lanes) { return bits_float(shuffle_xor(float_bits(value), lanes)); }

// Sum over the warp, the same order in every lane.
DEVICE float warp_sum(float value)
{
    UNROLL for (int lanes = 16; lanes > 0; lanes >>= 1) value += shuffle_xor(value, lanes);
    return value;
}

DEVICE float warp_largest(float value)
{
    UNROLL for (int lanes = 16; lanes > 0; lanes >>= 1) value = larger(value, shuffle_xor(value, lanes));
    return value;
}

// To nearest, ties to even; a NaN stays one (Kernels/BFloat16.cs).
DEVICE u32 to_bf16(float x)
{
    u32 bits = float_bits(x);
    return x != x ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
DEVICE float from_bf16(u32 bits) { return bits_float(bits << 16); }

// e^x from fused multiplications alone: the same bits on every device, one unit in the last place. Below the smallest normal number it is 0.
DEVICE float exponential(float x)
{
    if (x < -87.3365f) return 0;
    if (x > 88.7228f) return infinity();
    float n = round_even(x * 1.44269504f);
    float r = fused(n, -0.693359375f, x);
    r = fused(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fused(p, r, 1.3981999507e-3f);
    p = fused(p, r, 8.3334519073e-3f);
    p = fused(p, r, 4.1665795894e-2f);
    p = fused(p, r, 1.6666665459e-1f);
    p = fused(p, r, 5.0000001201e-1f);
    p = fused(p, r * r, r) + 1;
    // In two factors: 2^128 is no float.
    int exponent = x == x ? (int)n : 0, half = exponent >> 1;
    return p * bits_float((u32)(half + 127) << 23) * bits_float((u32)(exponent - half + 127) << 23);
}

DEVICE float silu(float x) { return x / (1 + exponential(-x)); }

// 32 numbers as codes: their scale, and the sum of the codes.
struct BlockScale { float scale; int sum; };

// x, 32 values of a warp, as codes and a scale (Kernels/QuantizedActivations.cs).
DEVICE void quantise(float x, s8* code, BlockScale* scale)
{
    float largest = warp_largest(magnitude(x));
    const bool poisoned = ballot(!is_finite(x)) != 0;
    int q = 0;
    if (!poisoned && largest >= 7.8886090522101181e-31f) q = (int)round_even(x * (127 / largest));
    else largest = poisoned ? not_a_number() : 0;
    *code = (s8)q;
    UNROLL for (int lanes = 16; lanes > 0; lanes >>= 1) q += (int)shuffle_xor((u32)q, lanes);
    if (lane_index() == 0) *scale = {largest * (1 / 127.0f), q};
}

struct alignas(16) Four { float values[4]; };

// Columns of a row; zeros behind its end.
DEVICE Four load_four(const float* row, int column, int columns)
{
    Four four = {};
    if (columns % 4 == 0)
    {
        if (column < columns) four = *(const Four*)(row + column);
        return four;
    }
    UNROLL for (int i = 0; i < 4; i++) four.values[i] = column + i < columns ? row[column + i] : 0;
    return four;
}
