// Watches what the threads of a launch read and write (CudaEmulation.Checked): the compiler calls a function of ThreadSanitizer's names for each access, and these stand here.
// Two threads that touch a byte, one of them to write, must have a barrier between: of the block, or of the warp that both are in. Threads of different blocks have none.
#pragma once
#include <unordered_map>

namespace races
{
    using namespace emulation;

    // Who; -1: several. Epochs are barriers that the thread has passed.
    struct Access { int block, warp, lane; u32 epoch, warp_epoch; };
    struct Byte { u32 launch; bool is_written, is_read; Access write, read; };
    constexpr size_t Page = 1024;
    struct PageOf { Byte bytes[Page]; };

    static std::unordered_map<uintptr_t, PageOf*> pages;
    static u8 in_flight[MaxShared];
    static u32 launch_number;
    static int block_number;
    static u32 epochs[MaxThreads], warp_epochs[MaxThreads];

    static void begin_launch()
    {
        launch_number++;
        block_number = -1;
        // What many launches of a test have touched is no longer of use.
        if (pages.size() < 4096) return;
        for (auto& page : pages) free(page.second);
        pages.clear();
    }
    static void begin_block()
    {
        block_number++;
        memset(epochs, 0, sizeof epochs);
        memset(warp_epochs, 0, sizeof warp_epochs);
        memset(in_flight, 0, sizeof in_flight);
    }

    static Access self() { return {block_number, current / 32, current % 32, epochs[current], warp_epochs[current]}; }

    static bool is_before(const Access& a, const Access& b)
    {
        if (a.block != b.block) return false;
        if (a.epoch < b.epoch) return true;
        return a.warp == b.warp && (a.lane == b.lane || a.warp_epoch < b.warp_epoch);
    }

    static void report(const char* what, uintptr_t address, const Access& other)
    {
        const Access me = self();
        const bool is_shared = address >= (uintptr_t)shared_memory && address < (uintptr_t)shared_memory + MaxShared;
        complain("%s %s memory at %zu: block %d thread %d (-1: several), and block %d thread %d after %u barriers", what, is_shared ? "shared" : "device",
            (size_t)(is_shared ? address - (uintptr_t)shared_memory : address), other.block, other.lane < 0 ? -1 : 32 * other.warp + other.lane, me.block, current, me.epoch);
    }

    static Byte& byte_at(uintptr_t address)
    {
        static uintptr_t last_key = ~(uintptr_t)0;
        static PageOf* last;
        static u32 last_launch;
        const uintptr_t key = address / Page;
        if (key != last_key || last_launch != launch_number)
        {
            PageOf*& page = pages[key];
            if (!page) page = (PageOf*)calloc(1, sizeof(PageOf));
            last = page;
            last_key = key;
            last_launch = launch_number;
        }
        Byte& byte = last->bytes[address % Page];
        if (byte.launch != launch_number) byte = {launch_number, false, false, {}, {}};
        return byte;
    }

    static inline void pass_barrier() { epochs[current]++; }
    static inline void pass_warp_barrier() { warp_epochs[current]++; }

    static void touch(uintptr_t address, size_t bytes, bool is_write)
    {
        // Stacks of the threads are their own, and so is what lies outside of a launch.
        if (block_number < 0 || (address >= (uintptr_t)stacks && address < (uintptr_t)stacks + StackBytes * MaxThreads)) return;
        const Access me = self();
        const uintptr_t shared_begin = (uintptr_t)shared_memory;
        const bool is_shared = address >= shared_begin && address < shared_begin + MaxShared;
        for (size_t i = 0; i < bytes; i++)
        {
            if (is_shared && in_flight[address + i - shared_begin]) report("A copy is still on its way to", address + i, me);
            Byte& byte = byte_at(address + i);
            // A block has shared memory of its own.
            if (is_shared && byte.is_written && byte.write.block != block_number) byte.is_written = false;
            if (is_shared && byte.is_read && byte.read.block != block_number) byte.is_read = false;
            if (byte.is_written && !is_before(byte.write, me)) report(is_write ? "Two threads write" : "A thread reads what another writes in", address + i, byte.write);
            if (is_write)
            {
                if (byte.is_read && !is_before(byte.read, me)) report("A thread writes what another reads in", address + i, byte.read);
                byte.is_written = true;
                byte.write = me;
            }
            else if (!byte.is_read || is_before(byte.read, me))
            {
                byte.is_read = true;
                byte.read = me;
            }
            else
            {
                if (byte.read.block != me.block) byte.read.block = -1;
                if (byte.read.warp != me.warp) byte.read.warp = -1;
                if (byte.read.lane != me.lane || byte.read.warp < 0) byte.read.lane = -1;
            }
        }
    }

    static void touch_whole(void* address, size_t bytes, bool is_write)
    {
        if ((uintptr_t)address % bytes != 0 && block_number >= 0) complain("Thread %d of block %d takes %zu bytes at %p, which is no multiple of that", current, block_number, bytes, address);
        touch((uintptr_t)address, bytes, is_write);
    }

    static void ask(u8* target, const u8* source, int bytes)
    {
        touch((uintptr_t)source, bytes, false);
        touch((uintptr_t)target, bytes, true);
        memset(in_flight + (target - shared_memory), 1, bytes);
    }
    static void arrive(u8* target, int bytes)
    {
        memset(in_flight + (target - shared_memory), 0, bytes);
        touch((uintptr_t)target, bytes, true);
    }
}

#define ERNIE_ACCESS(bytes) \
    void __tsan_read##bytes(void* address) { races::touch_whole(address, bytes, false); } \
    void __tsan_write##bytes(void* address) { races::touch_whole(address, bytes, true); } \
    void __tsan_read_write##bytes(void* address) { races::touch_whole(address, bytes, false); races::touch_whole(address, bytes, true); } \
    void __tsan_unaligned_read##bytes(void* address) { races::touch((uintptr_t)address, bytes, false); } \
    void __tsan_unaligned_write##bytes(void* address) { races::touch((uintptr_t)address, bytes, true); } \
    void __tsan_unaligned_read_write##bytes(void* address) { races::touch((uintptr_t)address, bytes, false); races::touch((uintptr_t)address, bytes, true); }

extern "C" __attribute__((visibility("hidden")))
{
    ERNIE_ACCESS(1) ERNIE_ACCESS(2) ERNIE_ACCESS(4) ERNIE_ACCESS(8) ERNIE_ACCESS(16)
    void __tsan_init() {}
    void __tsan_func_entry(void*) {}
    void __tsan_func_exit() {}
    void __tsan_vptr_update(void**, void*) {}
    void __tsan_vptr_read(void**) {}
    void* __tsan_memcpy(void* to, const void* from, size_t bytes)
    {
        races::touch((uintptr_t)from, bytes, false);
        races::touch((uintptr_t)to, bytes, true);
        return memcpy(to, from, bytes);
    }
    void* __tsan_memmove(void* to, const void* from, size_t bytes)
    {
        races::touch((uintptr_t)from, bytes, false);
        races::touch((uintptr_t)to, bytes, true);
        return memmove(to, from, bytes);
    }
    void* __tsan_memset(void* to, int value, size_t bytes)
    {
        races::touch((uintptr_t)to, bytes, true);
        return memset(to, value, bytes);
    }
}
