// A libcuda.so.1 without a GPU: device memory is a range of this process' addresses, every call is recorded and any call can be made to fail. It launches one kernel of its own, and those of libraries that a
// C++ compiler made of the kernels' text (fake_emulate), if the PTX that was loaded has an entry of the name; their number of parameters and threads is the PTX's.
// It is as strict as the driver about what it is given: a context must be current on the calling thread, addresses must lie inside live allocations, handles must be live and are destroyed once.
// Behind a curtain (fake_curtain) device memory can be touched inside a call of the driver only: who takes an address of the device for one of the CPU ends the process.
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_CONTEXT = 201, INVALID_PTX = 218, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600 };
enum { MEMORY, MODULE, STREAM, EVENT, PINNED, PROVIDER, KINDS };

typedef struct { int kind; void *address; size_t bytes; } Live;

static pthread_mutex_t s_lock = PTHREAD_MUTEX_INITIALIZER;
static Live s_live[4096];
static int s_started, s_devices = 1, s_major = 9, s_minor = 0, s_version = 13000, s_retained, s_pending_polls;
static size_t s_total = (size_t)1 << 30;
static char s_fail_call[64], s_log[1 << 16];
static int s_fail_after, s_fail_result;
static __thread void *s_current;
static int s_context, s_function;

// Device memory: pieces of a power of two, each used again for one of its size.
#define ARENA ((size_t)1 << 36)
static char *s_arena, *s_top, *s_freed[40][4096];
static int s_freed_count[40], s_curtain;

typedef int (*Emulated)(const int *grid, int threads, int shared, int descending, void **parameters, int count);
typedef struct Function { struct Function *next; Emulated launch; int parameters, threads; } Function;
typedef struct { char *text; Function *functions; } Module;
static void *s_emulations[16];
static int s_launches, s_overlapping;
static size_t s_peak;

// Captured graphs: what was asked for between begin and end, in order, to be done later and again. A launch has copies of its parameters; what a provider computes itself is a function and what it is told.
enum { GRAPHS = 64, PARAMETERS = 40, CAPTURE_UNSUPPORTED = 900 };
typedef struct { Emulated launch; int grid[3], threads, shared, count; uint64_t values[PARAMETERS]; void (*call)(const void *); char data[256]; } Asked;
typedef struct { Asked *asked; int count, room, replays; } Graph;
static Graph s_graphs[GRAPHS];
static int s_graph_count, s_capturing = -1;
static Asked *next_asked(void)
{
    Graph *g = &s_graphs[s_capturing];
    if (g->count == g->room) g->asked = realloc(g->asked, (g->room = g->room ? 2 * g->room : 256) * sizeof(Asked));
    return memset(&g->asked[g->count++], 0, sizeof(Asked));
}
// Calls that wait, allocate, or look at the CPU's memory have no place in a graph.
static int breaks_capture(const char *call)
{
    static const char *calls[] = { "cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize", "cuEventQuery", "cuMemAlloc_v2", "cuMemFree_v2", "cuMemcpyHtoDAsync_v2", "cuMemcpyDtoHAsync_v2", "cuMemcpyDtoDAsync_v2",
        "cuMemsetD8Async", "cuMemHostRegister_v2", "cuMemHostUnregister", "cuModuleLoadDataEx", "cudaMalloc" };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) if (!strcmp(call, calls[i])) return 1;
    return 0;
}

static int is_memory(int kind) { return kind == MEMORY || kind == PROVIDER; }

static size_t used(void)
{
    size_t bytes = 0;
    for (int i = 0; i < 4096; i++) if (s_live[i].address && is_memory(s_live[i].kind)) bytes += s_live[i].bytes;
    return bytes;
}

static int s_open = 1;
static void curtain(int open)
{
    if (!s_arena || open == s_open || (!open && !s_curtain)) return;
    mprotect(s_arena, ARENA, open ? PROT_READ | PROT_WRITE : PROT_NONE);
    s_open = open;
}

static int size_class(size_t bytes) { int c = 12; while (((size_t)1 << c) < bytes) c++; return c; }

static void *take(size_t bytes)
{
    if (!s_arena) s_arena = s_top = mmap(0, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int c = size_class(bytes);
    char *address = s_freed_count[c] ? s_freed[c][--s_freed_count[c]] : s_top;
    if (address == s_top) s_top += (size_t)1 << c;
    curtain(1);
    // As bf16 and as float these are NaN: what was never written shows.
    memset(address, 0xFF, bytes);
    return address;
}

static void give(char *address, size_t bytes)
{
    int c = size_class(bytes);
    curtain(1);
    madvise(address, (size_t)1 << c, MADV_DONTNEED);
    if (s_freed_count[c] < 4096) s_freed[c][s_freed_count[c]++] = address;
}

static int add(int kind, void *address, size_t bytes)
{
    int added = 0;
    for (int i = 0; i < 4096 && !added; i++)
        if (!s_live[i].address) { s_live[i] = (Live){ kind, address, bytes }; added = 1; }
    if (is_memory(kind) && used() > s_peak) s_peak = used();
    return added;
}

static Live *find(int kind, const void *address)
{
    for (int i = 0; i < 4096; i++) if (s_live[i].address == address && address && s_live[i].kind == kind) return &s_live[i];
    return 0;
}

static int inside(const void *address, size_t bytes)
{
    for (int i = 0; i < 4096; i++)
        if (s_live[i].address && is_memory(s_live[i].kind) && (char *)address >= (char *)s_live[i].address && (char *)address + bytes <= (char *)s_live[i].address + s_live[i].bytes) return 1;
    return 0;
}

// Takes the lock; the result is what the call must return, or SUCCESS.
static int enter(const char *call, int needs_context)
{
    pthread_mutex_lock(&s_lock);
    size_t length = strlen(s_log);
    if (length + strlen(call) + 2 < sizeof s_log) sprintf(s_log + length, "%s\n", call);
    if (s_fail_after > 0 && !strcmp(call, s_fail_call) && --s_fail_after == 0) return s_fail_result;
    if (s_capturing >= 0 && breaks_capture(call)) return CAPTURE_UNSUPPORTED;
    if (!s_started && strcmp(call, "cuInit") && strcmp(call, "cuDriverGetVersion")) return NOT_INITIALIZED;
    return needs_context && (!s_current || !s_retained) ? INVALID_CONTEXT : SUCCESS;
}

static int leave(int result) { curtain(0); pthread_mutex_unlock(&s_lock); return result; }

#define BEGIN(context) int result = enter(__func__, context); if (result) return leave(result)
#define FAIL(code) return leave(code)
#define END return leave(SUCCESS)

void fake_reset(void)
{
    pthread_mutex_lock(&s_lock);
    curtain(1);
    s_curtain = s_launches = s_overlapping = 0;
    for (int i = 0; i < s_graph_count; i++) { free(s_graphs[i].asked); s_graphs[i] = (Graph){ 0 }; }
    s_graph_count = 0;
    s_capturing = -1;
    for (int i = 0; i < 4096; i++)
    {
        if (!s_live[i].address || s_live[i].kind == PROVIDER) continue;
        if (s_live[i].kind == MEMORY) give(s_live[i].address, s_live[i].bytes);
        else if (s_live[i].kind != PINNED) free(s_live[i].address);
        s_live[i].address = 0;
    }
    s_started = s_retained = s_fail_after = s_pending_polls = 0;
    s_devices = 1; s_major = 9; s_minor = 0; s_version = 13000; s_total = (size_t)1 << 30;
    s_log[0] = 0;
    pthread_mutex_unlock(&s_lock);
}
void fake_device(int count, int major, int minor, size_t bytes, int version) { s_devices = count; s_major = major; s_minor = minor; s_total = bytes; s_version = version; }
void fake_fail(const char *call, int after, int code) { strncpy(s_fail_call, call, 63); s_fail_after = after; s_fail_result = code; }
void fake_pending(int polls) { s_pending_polls = polls; }
const char *fake_log(void) { return s_log; }
int fake_inside(const void *address, size_t bytes) { pthread_mutex_lock(&s_lock); int found = inside(address, bytes); pthread_mutex_unlock(&s_lock); return found; }
void fake_curtain(int drawn) { pthread_mutex_lock(&s_lock); curtain(1); s_curtain = drawn; curtain(0); pthread_mutex_unlock(&s_lock); }
int fake_launches(void) { return s_launches; }
size_t fake_peak(void) { return s_peak; }
void fake_forget_peak(void) { pthread_mutex_lock(&s_lock); s_peak = used(); pthread_mutex_unlock(&s_lock); }
size_t fake_provider_used(void)
{
    pthread_mutex_lock(&s_lock);
    size_t bytes = 0;
    for (int i = 0; i < 4096; i++) if (s_live[i].address && s_live[i].kind == PROVIDER) bytes += s_live[i].bytes;
    pthread_mutex_unlock(&s_lock);
    return bytes;
}
size_t fake_used(void) { pthread_mutex_lock(&s_lock); size_t bytes = used(); pthread_mutex_unlock(&s_lock); return bytes; }
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

// What a provider that computes on this GPU uses instead of CUDA's runtime library: memory, and the right to touch it.
void fake_open(void) { pthread_mutex_lock(&s_lock); curtain(1); }
void fake_close(void) { curtain(0); pthread_mutex_unlock(&s_lock); }
void *fake_provider_alloc(size_t bytes)
{
    int result = enter("cudaMalloc", 0);
    void *address = result || used() + bytes > s_total ? 0 : take(bytes);
    if (address) add(PROVIDER, address, bytes);
    leave(result);
    return address;
}
void fake_provider_free(void *address)
{
    pthread_mutex_lock(&s_lock);
    Live *live = find(PROVIDER, address);
    if (live) { give(address, live->bytes); live->address = 0; }
    leave(0);
}

// Returns the graph's number.
int fake_capture_begin(void)
{
    pthread_mutex_lock(&s_lock);
    s_capturing = s_graph_count < GRAPHS ? s_graph_count++ : -1;
    pthread_mutex_unlock(&s_lock);
    return s_capturing;
}
void fake_capture_end(void) { pthread_mutex_lock(&s_lock); s_capturing = -1; pthread_mutex_unlock(&s_lock); }
int fake_capturing(void) { return s_capturing >= 0; }
void fake_capture_call(void (*call)(const void *), const void *data, size_t bytes)
{
    pthread_mutex_lock(&s_lock);
    Asked *a = next_asked();
    a->call = call;
    memcpy(a->data, data, bytes);
    pthread_mutex_unlock(&s_lock);
}
int fake_replay(int graph)
{
    pthread_mutex_lock(&s_lock);
    curtain(1);
    int failed = 0;
    for (int i = 0; i < s_graphs[graph].count && !failed; i++)
    {
        Asked *a = &s_graphs[graph].asked[i];
        void *arguments[PARAMETERS];
        for (int p = 0; p < a->count; p++) arguments[p] = &a->values[p];
        if (a->call) a->call(a->data);
        else { s_launches++; failed = a->launch(a->grid, a->threads, a->shared, 0, arguments, a->count); }
    }
    s_graphs[graph].replays++;
    leave(0);
    return failed;
}
int fake_graphs(void) { return s_graph_count; }
int fake_replays(void) { int n = 0; for (int i = 0; i < s_graph_count; i++) n += s_graphs[i].replays; return n; }

int fake_live(int kind) { int n = 0; if (kind == KINDS) return s_retained; for (int i = 0; i < 4096; i++) n += s_live[i].address && s_live[i].kind == kind; return n; }

// A process that nobody prepared emulates the libraries of FAKE_CUDA_KERNELS, with colons between.
int cuInit(unsigned flags)
{
    BEGIN(0);
    if (!s_devices) FAIL(NO_DEVICE);
    char paths[4096] = "", *rest = paths, *path;
    if (!s_started && getenv("FAKE_CUDA_KERNELS")) strncpy(paths, getenv("FAKE_CUDA_KERNELS"), sizeof paths - 1);
    while ((path = strtok_r(rest, ":", &rest))) fake_emulate(path);
    s_started = 1;
    END;
}
int cuDriverGetVersion(int *version) { BEGIN(0); *version = s_version; END; }
int cuDeviceGetCount(int *count) { BEGIN(0); *count = s_devices; END; }
int cuDeviceGet(int *device, int ordinal) { BEGIN(0); if (ordinal < 0 || ordinal >= s_devices) FAIL(INVALID_VALUE); *device = ordinal + 10; END; }
int cuDeviceGetName(char *name, int length, int device) { BEGIN(0); snprintf(name, length, "Fake GPU %d", device - 10); END; }
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    BEGIN(0);
    if (device < 10 || device >= 10 + s_devices) FAIL(INVALID_VALUE);
    *value = attribute == 75 ? s_major : attribute == 76 ? s_minor : attribute == 16 ? 132 : attribute == 97 ? 232448 : 0;
    END;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { BEGIN(0); *bytes = s_total; END; }
int cuDevicePrimaryCtxRetain(void **context, int device) { BEGIN(0); s_retained++; *context = &s_context; END; }
int cuDevicePrimaryCtxRelease_v2(int device) { BEGIN(0); if (s_retained == 0) FAIL(INVALID_CONTEXT); s_retained--; END; }
int cuCtxSetCurrent(void *context) { BEGIN(0); if (context && !s_retained) FAIL(INVALID_CONTEXT); s_current = context; END; }
int cuCtxSynchronize(void) { BEGIN(1); END; }

int cuModuleLoadDataEx(void **module, const void *image, unsigned count, int *options, void **values)
{
    BEGIN(1);
    if (strstr(image, "syntax error"))
    {
        char *log = 0;
        size_t bytes = 0;
        for (unsigned i = 0; i < count; i++) { if (options[i] == 5) log = values[i]; if (options[i] == 6) bytes = (size_t)values[i]; }
        if (log) snprintf(log, bytes, "ptxas application ptx input, line 3; fatal   : Parsing error near 'error'\n");
        FAIL(INVALID_PTX);
    }
    Module *made = malloc(sizeof *made);
    *made = (Module){ strdup(image), 0 };
    *module = made;
    add(MODULE, made, 1);
    END;
}
int cuModuleUnload(void *module)
{
    BEGIN(1);
    Live *live = find(MODULE, module);
    if (!live) FAIL(INVALID_HANDLE);
    for (Function *f = ((Module *)module)->functions, *next; f; f = next) { next = f->next; free(f); }
    free(((Module *)module)->text);
    free(module);
    live->address = 0;
    END;
}
int cuModuleGetFunction(void **function, void *module, const char *name)
{
    BEGIN(1);
    char entry[160];
    Emulated launch = 0;
    if (!find(MODULE, module)) FAIL(INVALID_HANDLE);
    snprintf(entry, sizeof entry, "launch_%s", name);
    for (int i = 0; i < 16 && s_emulations[i] && !launch; i++) launch = (Emulated)dlsym(s_emulations[i], entry);
    snprintf(entry, sizeof entry, ".entry %s(", name);
    const char *text = strstr(((Module *)module)->text, entry);
    if (launch && text)
    {
        Function *f = malloc(sizeof *f);
        *f = (Function){ ((Module *)module)->functions, launch, 0, 1024 };
        const char *end = strchr(text, ')');
        for (const char *p = strstr(text, ".param"); p && p < end; p = strstr(p + 1, ".param")) f->parameters++;
        sscanf(end + 1, " .maxntid %d", &f->threads);
        *function = ((Module *)module)->functions = f;
        END;
    }
    if (strcmp(name, "scale")) FAIL(NOT_FOUND);
    *function = &s_function;
    END;
}
static Function *emulated(void *function)
{
    for (int i = 0; i < 4096; i++)
    {
        if (!s_live[i].address || s_live[i].kind != MODULE) continue;
        for (Function *f = ((Module *)s_live[i].address)->functions; f; f = f->next) if (f == function) return f;
    }
    return 0;
}
int cuFuncSetAttribute(void *function, int attribute, int value) { BEGIN(1); if (attribute != 8 || value > 232448) FAIL(INVALID_VALUE); END; }

// scale(const float *x, float *y, float factor, int count): one thread an element.
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream, void **arguments, void **extra)
{
    BEGIN(1);
    Function *f = emulated(function);
    if (function != &s_function && !f) FAIL(INVALID_HANDLE);
    if (!gx || !gy || !gz || (size_t)bx * by * bz > 1024 || !bx || !by || !bz || extra) FAIL(INVALID_VALUE);
    if (stream && !find(STREAM, stream)) FAIL(INVALID_HANDLE);
    if (f)
    {
        int grid[3] = { gx, gy, gz };
        // Grids are limited but for their first size, and shared memory to what needs no attribute.
        if (gy > 65535 || gz > 65535 || (int)bx > f->threads || by != 1 || bz != 1 || shared > 49152) FAIL(INVALID_VALUE);
        if (s_capturing >= 0)
        {
            Asked *a = next_asked();
            *a = (Asked){ .launch = f->launch, .grid = { gx, gy, gz }, .threads = bx, .shared = shared, .count = f->parameters };
            for (int i = 0; i < f->parameters; i++) a->values[i] = *(uint64_t *)arguments[i];
            END;
        }
        s_launches++;
        curtain(1);
        FAIL(f->launch(grid, bx, shared, 0, arguments, f->parameters) ? 700 : SUCCESS);
    }
    const float *x = *(float **)arguments[0];
    float *y = *(float **)arguments[1];
    float factor = *(float *)arguments[2];
    int count = *(int *)arguments[3];
    curtain(1);
    if (!inside(x, count * 4u) || !inside(y, count * 4u) || (size_t)gx * bx < (size_t)count) FAIL(INVALID_VALUE);
    for (int i = 0; i < count; i++) y[i] = factor * x[i];
    END;
}

// The launch configuration and its attributes as cuda.h lays them out; what may overlap is done in order all the same.
typedef struct { int id; char pad[4]; union { int on; char bytes[64]; } value; } Attribute;
typedef struct { unsigned gx, gy, gz, bx, by, bz, shared; void *stream; Attribute *attributes; unsigned count; } Launch;
int fake_overlapping(void) { return s_overlapping; }
int cuLaunchKernelEx(const Launch *l, void *function, void **arguments, void **extra)
{
    // Compute capability 9.0 or later knows programmatic stream serialisation.
    if (l->count != 1 || l->attributes[0].id != 6 || l->attributes[0].value.on != 1 || s_major < 9) return INVALID_VALUE;
    s_overlapping++;
    return cuLaunchKernel(function, l->gx, l->gy, l->gz, l->bx, l->by, l->bz, l->shared, l->stream, arguments, extra);
}

int cuMemAlloc_v2(void **address, size_t bytes) { BEGIN(1); if (!bytes) FAIL(INVALID_VALUE); if (used() + bytes > s_total) FAIL(OUT_OF_MEMORY); *address = take(bytes); add(MEMORY, *address, bytes); END; }
int cuMemFree_v2(void *address) { BEGIN(1); Live *live = find(MEMORY, address); if (!live) FAIL(INVALID_VALUE); give(address, live->bytes); live->address = 0; END; }
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) { BEGIN(1); if (!inside(to, bytes)) FAIL(INVALID_VALUE); curtain(1); memcpy(to, from, bytes); END; }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *stream) { BEGIN(1); if (!inside(from, bytes)) FAIL(INVALID_VALUE); curtain(1); memcpy(to, from, bytes); END; }
int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) { BEGIN(1); if (!inside(to, bytes) || !inside(from, bytes)) FAIL(INVALID_VALUE); curtain(1); memmove(to, from, bytes); END; }
int cuMemsetD8Async(void *to, unsigned char value, size_t bytes, void *stream) { BEGIN(1); if (!inside(to, bytes)) FAIL(INVALID_VALUE); curtain(1); memset(to, value, bytes); END; }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) { BEGIN(1); *total = s_total; *free_bytes = s_total - used(); END; }
int cuMemHostRegister_v2(void *address, size_t bytes, unsigned flags) { BEGIN(1); if (find(PINNED, address)) FAIL(INVALID_VALUE); add(PINNED, address, bytes); END; }
int cuMemHostUnregister(void *address) { BEGIN(1); Live *live = find(PINNED, address); if (!live) FAIL(INVALID_VALUE); live->address = 0; END; }

int cuStreamCreate(void **stream, unsigned flags) { BEGIN(1); if (flags != 1) FAIL(INVALID_VALUE); *stream = malloc(1); add(STREAM, *stream, 1); END; }
int cuStreamDestroy_v2(void *stream) { BEGIN(1); Live *live = find(STREAM, stream); if (!live) FAIL(INVALID_HANDLE); free(stream); live->address = 0; END; }
int cuStreamSynchronize(void *stream) { BEGIN(1); if (stream && !find(STREAM, stream)) FAIL(INVALID_HANDLE); END; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { BEGIN(1); if (!find(STREAM, stream) || !find(EVENT, event)) FAIL(INVALID_HANDLE); END; }
int cuEventCreate(void **event, unsigned flags) { BEGIN(1); if (flags & ~3u) FAIL(INVALID_VALUE); *event = calloc(1, sizeof(double)); add(EVENT, *event, flags & 2 ? 1 : 2); END; }
int cuEventDestroy_v2(void *event) { BEGIN(1); Live *live = find(EVENT, event); if (!live) FAIL(INVALID_HANDLE); free(event); live->address = 0; END; }
// What was asked for before is done: the time is now.
int cuEventRecord(void *event, void *stream)
{
    BEGIN(1);
    if (!find(EVENT, event)) FAIL(INVALID_HANDLE);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *(double *)event = now.tv_sec * 1e3 + now.tv_nsec * 1e-6;
    END;
}
int cuEventSynchronize(void *event) { BEGIN(1); if (!find(EVENT, event)) FAIL(INVALID_HANDLE); END; }
int cuEventQuery(void *event) { BEGIN(1); if (!find(EVENT, event)) FAIL(INVALID_HANDLE); if (s_pending_polls > 0) { s_pending_polls--; FAIL(NOT_READY); } END; }
int cuEventElapsedTime(float *milliseconds, void *start, void *end)
{
    BEGIN(1);
    Live *a = find(EVENT, start), *b = find(EVENT, end);
    // Events without timing have no time.
    if (!a || !b || a->bytes != 2 || b->bytes != 2) FAIL(INVALID_HANDLE);
    *milliseconds = (float)(*(double *)end - *(double *)start);
    END;
}

int cuGetErrorName(int code, const char **name)
{
    switch (code)
    {
        case INVALID_VALUE: *name = "CUDA_ERROR_INVALID_VALUE"; break;
        case OUT_OF_MEMORY: *name = "CUDA_ERROR_OUT_OF_MEMORY"; break;
        case NOT_INITIALIZED: *name = "CUDA_ERROR_NOT_INITIALIZED"; break;
        case NO_DEVICE: *name = "CUDA_ERROR_NO_DEVICE"; break;
        case INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
        case INVALID_PTX: *name = "CUDA_ERROR_INVALID_PTX"; break;
        case INVALID_HANDLE: *name = "CUDA_ERROR_INVALID_HANDLE"; break;
        case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
        case CAPTURE_UNSUPPORTED: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; break;
        case 700: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
        default: *name = 0; return INVALID_VALUE;
    }
    return SUCCESS;
}
int cuGetErrorString(int code, const char **text)
{
    if (code == OUT_OF_MEMORY) { *text = "out of memory"; return SUCCESS; }
    *text = 0;
    return INVALID_VALUE;
}
