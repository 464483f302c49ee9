// What the driver without a GPU knows, and what tests and the tests' provider tell it and ask it. Part of FakeCudaDriver.c.
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum
{
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_PTX = 218, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600,
    ILLEGAL_ADDRESS = 700, CAPTURE_UNSUPPORTED = 900
};
enum { MEMORY, MODULE, STREAM, EVENT, PINNED, PROVIDER, KINDS };
enum { DEVICES = 8, THINGS = 8192 };

// A GPU. Its address is the handle of its primary context. Its memory are pieces of a power of two of addresses of its own, each used again for one of its size.
#define ARENA ((size_t)1 << 36)
typedef struct { int retained, is_open, freed_count[40]; size_t total, used, peak; char *arena, *top, *freed[40][4096]; } Device;
typedef struct { int kind; void *address; size_t bytes; Device *device; } Live;

static pthread_mutex_t s_lock = PTHREAD_MUTEX_INITIALIZER;
static Device s_device[DEVICES];
static Live s_live[THINGS];
static int s_things, s_started, s_devices, s_major, s_minor, s_version, s_pending_polls, s_curtain;
static size_t s_used, s_peak;
static char s_fail_call[64], s_log[1 << 16];
static int s_fail_after, s_fail_result;
static __thread Device *s_current;

typedef int (*Emulated)(const int *grid, int threads, int shared, int descending, void **parameters, int count);
typedef struct Function { struct Function *next; Emulated launch; int parameters, threads; } Function;
typedef struct { char *text; Function *functions; } Module;
static void *s_emulations[16];
static int s_launches, s_overlapping;

// Captured graphs: what was asked for of a stream between begin and end, in order, to be done later and again. A launch has copies of its parameters; what a provider computes itself is a function and what it is told.
enum { GRAPHS = 256, PARAMETERS = 40 };
typedef struct { Emulated launch; int grid[3], threads, shared, count; uint64_t values[PARAMETERS]; void (*call)(const void *); char data[256]; } Asked;
typedef struct { Asked *asked; int count, room, replays, is_capturing; void *stream; Device *device; pthread_t thread; } Graph;
static Graph s_graphs[GRAPHS];
static int s_graph_count;
static Asked *next_asked(Graph *g)
{
    if (g->count == g->room) g->asked = realloc(g->asked, (g->room = g->room ? 2 * g->room : 256) * sizeof(Asked));
    return memset(&g->asked[g->count++], 0, sizeof(Asked));
}
// The graph that is being captured of a stream.
static Graph *capturing(const void *stream)
{
    for (int i = 0; i < s_graph_count; i++) if (s_graphs[i].is_capturing && s_graphs[i].stream == stream) return &s_graphs[i];
    return 0;
}
// Calls that wait for more than a stream, or allocate, fail while the thread captures, and while any thread does unless this one has said that others are none of its business: ONNX Runtime captures in the global mode.
// What is asked of a stream, and may not be captured, asks itself.
enum { GLOBAL, THREAD_LOCAL, RELAXED };
static __thread int s_mode;
static int is_forbidden(void)
{
    for (int i = 0; i < s_graph_count; i++)
        if (s_graphs[i].is_capturing && (pthread_equal(s_graphs[i].thread, pthread_self()) ? s_mode != RELAXED : s_mode == GLOBAL)) return 1;
    return 0;
}
static int breaks_capture(const char *call)
{
    static const char *calls[] = { "cuCtxSynchronize", "cuEventSynchronize", "cuEventQuery", "cuMemAlloc_v2", "cuMemFree_v2", "cuMemHostRegister_v2", "cuMemHostUnregister", "cuModuleLoadDataEx", "cudaMalloc" };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) if (!strcmp(call, calls[i])) return 1;
    return 0;
}

static void curtain(Device *d, int open)
{
    if (!d->arena || open == d->is_open || (!open && !s_curtain)) return;
    mprotect(d->arena, ARENA, open ? PROT_READ | PROT_WRITE : PROT_NONE);
    d->is_open = open;
}
static void curtains(int open) { for (int i = 0; i < DEVICES; i++) curtain(&s_device[i], open); }

static int is_memory(int kind) { return kind == MEMORY || kind == PROVIDER; }
static int size_class(size_t bytes) { int c = 12; while (((size_t)1 << c) < bytes) c++; return c; }
static void account(Device *d, long long bytes)
{
    d->used += bytes;
    s_used += bytes;
    if (d->used > d->peak) d->peak = d->used;
    if (s_used > s_peak) s_peak = s_used;
}

static void forget_peak(void)
{
    s_peak = s_used;
    for (int i = 0; i < DEVICES; i++) s_device[i].peak = s_device[i].used;
}

static void add_to(Device *d, int kind, void *address, size_t bytes)
{
    int i = 0;
    while (i < s_things && s_live[i].address) i++;
    if (i == THINGS) abort();
    if (i == s_things) s_things++;
    s_live[i] = (Live){ kind, address, bytes, d };
    if (is_memory(kind)) account(d, bytes);
}
// What is made now is the current context's.
static void add(int kind, void *address, size_t bytes) { add_to(s_current, kind, address, bytes); }

// Null: there is no room.
static void *take(Device *d, int kind, size_t bytes)
{
    if (bytes > d->total || d->used > d->total - bytes) return 0;
    if (!d->arena)
    {
        d->arena = d->top = mmap(0, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        d->is_open = 1;
    }
    int c = size_class(bytes);
    char *address = d->freed_count[c] ? d->freed[c][--d->freed_count[c]] : d->top;
    if (address == d->top) d->top += (size_t)1 << c;
    curtain(d, 1);
    // As bf16 and as float these are NaN: what was never written shows.
    memset(address, 0xFF, bytes);
    add_to(d, kind, address, bytes);
    return address;
}

static void give(Live *live)
{
    Device *d = live->device;
    int c = size_class(live->bytes);
    curtain(d, 1);
    madvise(live->address, (size_t)1 << c, MADV_DONTNEED);
    if (d->freed_count[c] < 4096) d->freed[c][d->freed_count[c]++] = live->address;
    account(d, -(long long)live->bytes);
    live->address = 0;
}

// On any GPU.
static Live *find_anywhere(int kind, const void *address)
{
    for (int i = 0; i < s_things; i++) if (s_live[i].address == address && address && s_live[i].kind == kind) return &s_live[i];
    return 0;
}
// In the current context.
static Live *find(int kind, const void *address)
{
    Live *live = find_anywhere(kind, address);
    return live && live->device == s_current ? live : 0;
}

// The memory that a range of addresses lies in, on any GPU.
static Live *memory_of(const void *address, size_t bytes)
{
    for (int i = 0; i < s_things; i++)
        if (s_live[i].address && is_memory(s_live[i].kind) && (char *)address >= (char *)s_live[i].address && (char *)address + bytes <= (char *)s_live[i].address + s_live[i].bytes) return &s_live[i];
    return 0;
}
// In the current context.
static int inside(const void *address, size_t bytes) { Live *memory = memory_of(address, bytes); return memory && memory->device == s_current; }

// Takes the lock; the result is what the call must return, or SUCCESS.
static int enter(const char *call, int needs_context)
{
    pthread_mutex_lock(&s_lock);
    size_t length = strlen(s_log);
    if (length + strlen(call) + 2 < sizeof s_log) sprintf(s_log + length, "%s\n", call);
    if (s_fail_after > 0 && !strcmp(call, s_fail_call) && --s_fail_after == 0) return s_fail_result;
    if (is_forbidden() && breaks_capture(call)) return CAPTURE_UNSUPPORTED;
    if (!s_started && strcmp(call, "cuInit") && strcmp(call, "cuDriverGetVersion")) return NOT_INITIALIZED;
    return needs_context && (!s_current || !s_current->retained) ? INVALID_CONTEXT : SUCCESS;
}

static int leave(int result) { curtains(0); pthread_mutex_unlock(&s_lock); return result; }

#define BEGIN(context) int result = enter(__func__, context); if (result) return leave(result)
#define FAIL(code) return leave(code)
#define END return leave(SUCCESS)
// A stream of the current context, or its default one.
#define CHECK_STREAM(stream) if (stream && !find(STREAM, stream)) FAIL(INVALID_HANDLE)
// The default stream does not wait for streams that are created not to wait for it, as all are here.
#define CHECK_NO_CAPTURE(stream) if (stream ? capturing(stream) != 0 : is_forbidden()) FAIL(CAPTURE_UNSUPPORTED)

void fake_device(int count, int major, int minor, size_t bytes, int version)
{
    s_devices = count; s_major = major; s_minor = minor; s_version = version;
    for (int i = 0; i < DEVICES; i++) s_device[i].total = bytes;
}
// What a process has that nobody prepared.
static void __attribute__((constructor)) describe(void) { fake_device(1, 9, 0, (size_t)1 << 30, 13000); }
void fake_reset(void)
{
    pthread_mutex_lock(&s_lock);
    curtains(1);
    s_curtain = s_launches = s_overlapping = 0;
    for (int i = 0; i < s_graph_count; i++) { free(s_graphs[i].asked); s_graphs[i] = (Graph){ 0 }; }
    s_graph_count = 0;
    for (int i = 0; i < s_things; i++)
    {
        if (!s_live[i].address || s_live[i].kind == PROVIDER) continue;
        if (s_live[i].kind == MEMORY) give(&s_live[i]);
        else if (s_live[i].kind != PINNED) free(s_live[i].address);
        s_live[i].address = 0;
    }
    s_started = s_fail_after = s_pending_polls = 0;
    for (int i = 0; i < DEVICES; i++) s_device[i].retained = 0;
    describe();
    forget_peak();
    s_log[0] = 0;
    pthread_mutex_unlock(&s_lock);
}
void fake_device_bytes(int ordinal, size_t bytes) { s_device[ordinal].total = bytes; }
void fake_fail(const char *call, int after, int code) { strncpy(s_fail_call, call, 63); s_fail_after = after; s_fail_result = code; }
void fake_pending(int polls) { s_pending_polls = polls; }
const char *fake_log(void) { return s_log; }
int fake_inside(const void *address, size_t bytes) { pthread_mutex_lock(&s_lock); int found = memory_of(address, bytes) != 0; pthread_mutex_unlock(&s_lock); return found; }
void fake_curtain(int drawn) { pthread_mutex_lock(&s_lock); curtains(1); s_curtain = drawn; curtains(0); pthread_mutex_unlock(&s_lock); }
int fake_launches(void) { return s_launches; }
int fake_overlapping(void) { return s_overlapping; }
size_t fake_used(void) { return s_used; }
size_t fake_peak(void) { return s_peak; }
size_t fake_used_of(int ordinal) { return s_device[ordinal].used; }
size_t fake_peak_of(int ordinal) { return s_device[ordinal].peak; }
void fake_forget_peak(void) { pthread_mutex_lock(&s_lock); forget_peak(); pthread_mutex_unlock(&s_lock); }
// Of all GPUs.
int fake_live(int kind)
{
    int n = 0;
    for (int i = 0; i < DEVICES; i++) if (kind == KINDS) n += s_device[i].retained;
    for (int i = 0; i < s_things; i++) n += s_live[i].address && s_live[i].kind == kind;
    return n;
}
int fake_emulate(const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    for (int i = 0; library && i < 16; i++)
    {
        if (s_emulations[i] == library) return 1;
        if (!s_emulations[i]) { s_emulations[i] = library; return 1; }
    }
    return 0;
}

// What a provider that computes on these GPUs uses instead of CUDA's runtime library: cudaSetDevice, of which a primary context is the thread's current one afterwards; memory of that GPU, and the right to touch it.
int fake_set_device(int ordinal) { if (ordinal < 0 || ordinal >= s_devices) return INVALID_DEVICE; s_current = &s_device[ordinal]; return SUCCESS; }
// The current one, and those of an address and of a stream; -1: none.
int fake_current(void) { return s_current ? (int)(s_current - s_device) : -1; }
int fake_device_of(const void *address) { pthread_mutex_lock(&s_lock); Live *memory = memory_of(address, 1); pthread_mutex_unlock(&s_lock); return memory ? (int)(memory->device - s_device) : -1; }
int fake_stream_device(const void *stream) { pthread_mutex_lock(&s_lock); Live *live = find_anywhere(STREAM, stream); pthread_mutex_unlock(&s_lock); return live ? (int)(live->device - s_device) : -1; }
void fake_open(int ordinal) { pthread_mutex_lock(&s_lock); curtain(&s_device[ordinal], 1); }
void fake_close(void) { leave(SUCCESS); }
void *fake_provider_alloc(int ordinal, size_t bytes)
{
    int result = enter("cudaMalloc", 0);
    void *address = result ? 0 : take(&s_device[ordinal], PROVIDER, bytes);
    leave(result);
    return address;
}
void fake_provider_free(void *address)
{
    pthread_mutex_lock(&s_lock);
    Live *live = find_anywhere(PROVIDER, address);
    if (live) give(live);
    leave(SUCCESS);
}

// Waiting for a whole GPU is an error while a stream of it is captured, whoever does either.
int fake_provider_wait_for_gpu(int gpu)
{
    int captured = 0;
    pthread_mutex_lock(&s_lock);
    for (int i = 0; i < s_graph_count; i++) captured |= s_graphs[i].is_capturing && s_graphs[i].device == &s_device[gpu];
    pthread_mutex_unlock(&s_lock);
    return captured;
}

// Waits for a stream: the application's, and a provider's.
static int s_waits[2];
int fake_waits(int provider) { return s_waits[provider]; }
void fake_provider_wait(void) { pthread_mutex_lock(&s_lock); s_waits[1]++; pthread_mutex_unlock(&s_lock); }

// Returns the graph's number, or -1.
int fake_capture_begin(void *stream)
{
    pthread_mutex_lock(&s_lock);
    Live *live = find(STREAM, stream);
    int number = live && s_graph_count < GRAPHS ? s_graph_count++ : -1;
    if (number >= 0) s_graphs[number] = (Graph){ .is_capturing = 1, .stream = stream, .device = live->device, .thread = pthread_self() };
    pthread_mutex_unlock(&s_lock);
    return number;
}
void fake_capture_end(int graph) { pthread_mutex_lock(&s_lock); s_graphs[graph].is_capturing = 0; pthread_mutex_unlock(&s_lock); }
int fake_capturing(const void *stream) { pthread_mutex_lock(&s_lock); int found = stream ? capturing(stream) != 0 : is_forbidden(); pthread_mutex_unlock(&s_lock); return found; }
void fake_capture_call(const void *stream, void (*call)(const void *), const void *data, size_t bytes)
{
    pthread_mutex_lock(&s_lock);
    Asked *a = next_asked(capturing(stream));
    a->call = call;
    memcpy(a->data, data, bytes);
    pthread_mutex_unlock(&s_lock);
}
int fake_replay(int graph)
{
    pthread_mutex_lock(&s_lock);
    Graph *g = &s_graphs[graph];
    // As a launch, in its stream's context.
    if (g->device != s_current || !find(STREAM, g->stream)) FAIL(INVALID_HANDLE);
    curtain(g->device, 1);
    int failed = 0;
    for (int i = 0; i < g->count && !failed; i++)
    {
        Asked *a = &g->asked[i];
        void *arguments[PARAMETERS];
        for (int p = 0; p < a->count; p++) arguments[p] = &a->values[p];
        if (a->call) a->call(a->data);
        else { s_launches++; failed = a->launch(a->grid, a->threads, a->shared, 0, arguments, a->count); }
    }
    g->replays++;
    return leave(failed ? ILLEGAL_ADDRESS : SUCCESS);
}
int fake_graphs(void) { return s_graph_count; }
int fake_replays(void) { int n = 0; for (int i = 0; i < s_graph_count; i++) n += s_graphs[i].replays; return n; }
