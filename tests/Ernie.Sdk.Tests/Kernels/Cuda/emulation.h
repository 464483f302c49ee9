// Runs the text of a CUDA kernel on the CPU: blocks one after another, each thread of a block on a stack of its own until it waits for others.
// Shared memory starts as NaN in every block, has a guard behind it, and threads can run in falling order: what reads before it waits gives other bits then.
// Compiled with ERNIE_RACES and -fsanitize=thread by clang, it watches every access (races.h).
#pragma once
#if defined(ERNIE_RACES)
#pragma clang attribute push(__attribute__((no_sanitize("thread"))), apply_to = function)
#endif
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cmath>
#include <mutex>
#include <utility>
#include <vector>
#include <sys/mman.h>
#include <ucontext.h>

#define ERNIE_EMULATION 1

// The context switch is what an emulated shuffle costs: where it is known, six registers and a stack pointer. Stacks are saved to *from and taken from to.
#if defined(__x86_64__)
extern "C" void ernie_switch(void** from, void* to) __attribute__((visibility("hidden")));
asm(R"(
.text
.hidden ernie_switch
.globl ernie_switch
.type ernie_switch, @function
ernie_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size ernie_switch, .-ernie_switch
)");
#endif

typedef unsigned char u8;
typedef signed char s8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

#define DEVICE static inline
#define KERNEL(threads) extern "C" void

namespace emulation
{
    constexpr int MaxThreads = 1024, MaxShared = 1 << 18, Guard = 64;
    constexpr size_t StackBytes = 1 << 17;

    enum class State { Ready, AtBarrier, InWarp, Done };

    struct Thread
    {
#if defined(__x86_64__)
        void* stack;
#else
        ucontext_t entry;
        jmp_buf resume;
        bool started;
#endif
        State state;
    };

    // What a warp does together.
    enum class Instruction { Barrier, Shuffle, Ballot, Match, MultiplyBf16, MultiplyBytes };

    struct Warp
    {
        u32 slots[2][32][8];
        alignas(32) double products[2][16][8];
        u32 generation;
        int arrived;
        Instruction instruction;
    };

    static Thread threads[MaxThreads];
    static Warp warps[MaxThreads / 32];
    static u8* stacks;
#if defined(__x86_64__)
    static void* scheduler;
#else
    static jmp_buf scheduler;
#endif
    static int current, thread_count, live, at_barrier, block[3];
    alignas(64) static u8 shared_memory[MaxShared + Guard];
    static void (*body)(void*);
    static void* argument;

    // What each thread has asked to be copied, and how many groups it has closed.
    struct Copy { u8* target; const u8* source; int bytes, group; };
    static std::vector<Copy> copies[MaxThreads];
    static int groups[MaxThreads];

    // What a launch did that a GPU does not forgive; the first of it.
    static char problem[256];
    template <class... A> static void complain(const char* format, A... values)
    {
        if (!problem[0]) snprintf(problem, sizeof problem, format, values...);
    }
}

#if defined(ERNIE_RACES)
#include "races.h"
#else
namespace races
{
    static inline void begin_launch() {}
    static inline void begin_block() {}
    static inline void pass_barrier() {}
    static inline void pass_warp_barrier() {}
    static inline void ask(const u8*, const u8*, int) {}
    static inline void arrive(const u8*, int) {}
}
#endif

namespace emulation
{
    static void enter();

#if defined(__x86_64__)
    static inline void prepare(int t)
    {
        void** top = (void**)(stacks + StackBytes * (t + 1)) - 2; // the return address at a multiple of 16
        *top = (void*)enter;
        memset(top - 6, 0, 6 * sizeof(void*));
        threads[t].stack = top - 6;
    }
    static inline void suspend() { ernie_switch(&threads[current].stack, scheduler); }
    static inline void resume(int t)
    {
        current = t;
        ernie_switch(&scheduler, threads[t].stack);
    }
#else
    static inline void prepare(int t) { threads[t].started = false; }
    static inline void suspend()
    {
        if (_setjmp(threads[current].resume) == 0) _longjmp(scheduler, 1);
    }
    static void resume(int t)
    {
        current = t;
        if (_setjmp(scheduler) != 0) return;
        if (threads[t].started) _longjmp(threads[t].resume, 1);
        threads[t].started = true;
        getcontext(&threads[t].entry);
        threads[t].entry.uc_stack.ss_sp = stacks + StackBytes * t;
        threads[t].entry.uc_stack.ss_size = StackBytes;
        threads[t].entry.uc_link = nullptr;
        makecontext(&threads[t].entry, enter, 0);
        setcontext(&threads[t].entry);
    }
#endif

    static inline void release_barrier()
    {
        for (int t = 0; t < thread_count; t++)
        {
            if (threads[t].state == State::AtBarrier) threads[t].state = State::Ready;
        }
        at_barrier = 0;
    }

    static inline void wait_block()
    {
        races::pass_barrier();
        threads[current].state = State::AtBarrier;
        if (++at_barrier == live) release_barrier();
        else suspend();
    }

    struct Nothing { void operator()(u32 (*)[8], double (*)[8]) const {} };

    // Shows a lane's values to the others of its warp: [32 lanes, 8]. The last lane to come does what they have in common.
    template <class Last = Nothing> static inline u32 (*exchange(Instruction instruction, const u32* values, int count, Last last = {}))[8]
    {
        Warp& warp = warps[current / 32];
        if (warp.arrived == 0) warp.instruction = instruction;
        else if (warp.instruction != instruction) complain("Lanes of warp %d are at different instructions (lane %d)", current / 32, current % 32);
        u32 (*slots)[8] = warp.slots[warp.generation & 1];
        memcpy(slots[current % 32], values, count * sizeof(u32));
        threads[current].state = State::InWarp;
        if (++warp.arrived == 32)
        {
            last(slots, warp.products[warp.generation & 1]);
            warp.arrived = 0;
            warp.generation++;
            for (int t = current / 32 * 32; t < current / 32 * 32 + 32; t++) threads[t].state = State::Ready;
        }
        else
        {
            suspend();
        }
        return slots;
    }

    static void enter()
    {
        body(argument);
        threads[current].state = State::Done;
        live--;
        if (live > 0 && at_barrier == live) release_barrier();
        suspend();
    }

    // 0, or: 1 threads wait for each other, 2 something wrote behind the shared memory, 3 the geometry is not supported, 5 as problem says.
    static int launch(const int* grid, int block_threads, int shared_bytes, int descending, void (*run)(void*), void* kernel_argument)
    {
        if (block_threads < 1 || block_threads > MaxThreads || block_threads % 32 != 0 || shared_bytes > MaxShared) return 3;
        // A library is loaded once in a process, whoever launches from it: tests of kernels and models on the emulated GPU run side by side.
        static std::mutex one_at_a_time;
        const std::lock_guard<std::mutex> hold(one_at_a_time);
        if (!stacks) stacks = (u8*)mmap(nullptr, StackBytes * MaxThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        body = run;
        argument = kernel_argument;
        thread_count = block_threads;
        problem[0] = 0;
        races::begin_launch();
        for (block[2] = 0; block[2] < grid[2]; block[2]++)
        for (block[1] = 0; block[1] < grid[1]; block[1]++)
        for (block[0] = 0; block[0] < grid[0]; block[0]++)
        {
            memset(shared_memory, 0xFF, shared_bytes + Guard);
            races::begin_block();
            live = thread_count;
            at_barrier = 0;
            memset(warps, 0, sizeof warps);
            for (int t = 0; t < thread_count; t++)
            {
                prepare(t);
                threads[t].state = State::Ready;
                copies[t].clear();
                groups[t] = 0;
            }
            while (live > 0)
            {
                bool progress = false;
                for (int i = 0; i < thread_count; i++)
                {
                    const int t = descending ? thread_count - 1 - i : i;
                    if (threads[t].state != State::Ready) continue;
                    progress = true;
                    resume(t);
                }
                if (!progress) return 1;
            }
            for (int i = 0; i < Guard; i++)
            {
                if (shared_memory[shared_bytes + i] != 0xFF) return 2;
            }
            if (problem[0]) return 5;
        }
        return 0;
    }

    template <class... A, size_t... I> static void call(void (*kernel)(A...), void** parameters, std::index_sequence<I...>) { kernel(*(A*)parameters[I]...); }

    template <class... A> static int launch(void (*kernel)(A...), const int* grid, int block_threads, int shared_bytes, int descending, void** parameters, int parameter_count)
    {
        if (parameter_count != (int)sizeof...(A)) return 4;
        struct Closure { void (*kernel)(A...); void** parameters; } closure = {kernel, parameters};
        return launch(grid, block_threads, shared_bytes, descending, [](void* c)
        {
            call(((Closure*)c)->kernel, ((Closure*)c)->parameters, std::index_sequence_for<A...>{});
        }, &closure);
    }
}

// As cuLaunchKernel takes its parameters: an address for each.
extern "C" const char* ernie_problem() { return emulation::problem; }
#define EXPORT(kernel) extern "C" int launch_##kernel(const int* grid, int threads, int shared_bytes, int descending, void** parameters, int count) \
    { return emulation::launch(kernel, grid, threads, shared_bytes, descending, parameters, count); }

DEVICE int thread_x() { return emulation::current; }
DEVICE int block_x() { return emulation::block[0]; }
DEVICE int block_y() { return emulation::block[1]; }
DEVICE int block_z() { return emulation::block[2]; }
DEVICE void sync_threads() { emulation::wait_block(); }
DEVICE void sync_warp()
{
    u32 none = 0;
    races::pass_warp_barrier();
    emulation::exchange(emulation::Instruction::Barrier, &none, 1);
}
template <class T> DEVICE T* shared() { return (T*)emulation::shared_memory; }

DEVICE u32 shuffle(u32 value, int lane) { return emulation::exchange(emulation::Instruction::Shuffle, &value, 1)[lane & 31][0]; }
DEVICE u32 shuffle_xor(u32 value, int lanes) { return shuffle(value, (thread_x() & 31) ^ lanes); }

DEVICE u32 ballot(bool condition)
{
    u32 value = condition, result = 0;
    u32 (*all)[8] = emulation::exchange(emulation::Instruction::Ballot, &value, 1);
    for (int lane = 0; lane < 32; lane++) result |= all[lane][0] << lane;
    return result;
}

DEVICE u32 match(u32 value)
{
    u32 result = 0;
    u32 (*all)[8] = emulation::exchange(emulation::Instruction::Match, &value, 1);
    for (int lane = 0; lane < 32; lane++) result |= (u32)(all[lane][0] == value) << lane;
    return result;
}

DEVICE void atomic_or(u32* target, u32 bits) { *target |= bits; }
DEVICE void atomic_add(u32* target, u32 value) { *target += value; }
DEVICE void atomic_add(u64* target, u64 value) { *target += value; }

// Copies happen when they are waited for, not before: who reads too early finds what was there.
DEVICE void await_previous() {}
DEVICE void prefetch(const void*) {}

static inline void copy_later(u8* target, const u8* source, int bytes)
{
    if ((uintptr_t)target % bytes != 0 || (uintptr_t)source % bytes != 0) emulation::complain("A copy of %d bytes is from or to an address that is no multiple of that", bytes);
    if (target < emulation::shared_memory || target + bytes > emulation::shared_memory + emulation::MaxShared) emulation::complain("A copy of %d bytes does not go to shared memory", bytes);
    races::ask(target, source, bytes);
    emulation::copies[thread_x()].push_back({target, source, bytes, emulation::groups[thread_x()]});
}
DEVICE void copy_async(u8* target, const u8* source) { copy_later(target, source, 16); }
DEVICE void copy_async_8(u8* target, const u8* source) { copy_later(target, source, 8); }
DEVICE void copies_asked() { emulation::groups[thread_x()]++; }
template <int Newest> DEVICE void copies_wait()
{
    auto& copies = emulation::copies[thread_x()];
    size_t done = 0;
    for (; done < copies.size() && copies[done].group < emulation::groups[thread_x()] - Newest; done++) 
    {
        memcpy(copies[done].target, copies[done].source, copies[done].bytes);
        races::arrive(copies[done].target, copies[done].bytes);
    }
    copies.erase(copies.begin(), copies.begin() + done);
}

DEVICE float half_to_float(u16 bits)
{
    const int exponent = bits >> 10 & 31;
    const u32 sign = (u32)(bits & 0x8000) << 16;
    float value;
    if (exponent == 0)
    {
        value = (float)(bits & 1023) * 0x1p-24f;
        return sign ? -value : value;
    }
    const u32 wide = sign | (exponent == 31 ? 255u : (u32)(exponent + 112)) << 23 | (u32)(bits & 1023) << 13;
    memcpy(&value, &wide, 4);
    return value;
}

DEVICE float power_of_two(float x) { return exp2f(x); }
DEVICE float binary_logarithm(float x) { return log2f(x); }

DEVICE u32 byte_permute(u32 a, u32 b, u32 selector)
{
    const u64 bytes = (u64)b << 32 | a;
    u32 result = 0;
    for (int i = 0; i < 4; i++) result |= (u32)(bytes >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
    return result;
}

// The product of a whole warp, [16, 8], in double: rounded once where it is added.
template <int Columns, class Element> static inline void multiply(u32 (*all)[8], double (*products)[8], Element element)
{
    double a[16][Columns], b[Columns][8];
    for (int lane = 0; lane < 32; lane++)
    for (int part = 0; part < 2; part++)
    for (int i = 0; i < Columns / 8; i++)
    {
        const int g = lane / 4, k = lane % 4 * (Columns / 8) + part * (Columns / 2) + i;
        a[g][k] = element(all[lane][2 * part], i, true);
        a[g + 8][k] = element(all[lane][2 * part + 1], i, true);
        b[k][g] = element(all[lane][4 + part], i, false);
    }
    for (int row = 0; row < 16; row++)
    {
        double sums[8] = {};
        for (int k = 0; k < Columns; k++)
        for (int column = 0; column < 8; column++) sums[column] += a[row][k] * b[k][column];
        memcpy(products[row], sums, sizeof sums);
    }
}

template <int Columns, class T, class Element> static inline void mma(emulation::Instruction instruction, T* c, const u32* a, const u32* b, Element element)
{
    const u32 operands[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    emulation::Warp& warp = emulation::warps[emulation::current / 32];
    double (*products)[8] = warp.products[warp.generation & 1];
    emulation::exchange(instruction, operands, 6, [=](u32 (*all)[8], double (*sums)[8]) { multiply<Columns>(all, sums, element); });
    const int g = (thread_x() & 31) / 4, t = thread_x() & 3;
    for (int i = 0; i < 4; i++) c[i] = (T)(c[i] + products[g + i / 2 * 8][2 * t + i % 2]);
}

DEVICE void mma_bf16(float* c, const u32* a, const u32* b)
{
    mma<16>(emulation::Instruction::MultiplyBf16, c, a, b, [](u32 pair, int i, bool)
    {
        const u32 bits = i ? pair & 0xffff0000u : pair << 16;
        float value;
        memcpy(&value, &bits, 4);
        return (double)value;
    });
}

DEVICE void mma_u8s8(int* c, const u32* a, const u32* b)
{
    mma<32>(emulation::Instruction::MultiplyBytes, c, a, b, [](u32 four, int i, bool is_unsigned)
    {
        const u32 byte = four >> 8 * i & 255;
        return is_unsigned ? (double)byte : (double)(s8)byte;
    });
}

#if defined(ERNIE_RACES)
#pragma clang attribute pop
#endif
