// A libcuda.so.1 without a GPU: device memory is a range of this process' addresses, every call is recorded and any call can be made to fail. It launches one kernel of its own, and those of libraries that a
// C++ compiler made of the kernels' text (fake_emulate), if the PTX that was loaded has an entry of the name; their number of parameters and threads is the PTX's.
// It is as strict as the driver about what it is given, and stricter: a context must be current on the calling thread and retained, addresses must lie inside live allocations, handles must be live and are destroyed once.
// There may be several GPUs. What is made is its context's: no call takes a handle or an address of another GPU than the current context's, but that a stream may wait for an event of any (cuda.h allows some more).
// Behind a curtain (fake_curtain) a GPU's memory can be touched inside a call of the driver in its context only: who takes an address of the device for one of the CPU, or of another GPU, ends the process.
#include "FakeCudaState.c"

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
int cuDeviceGet(int *device, int ordinal) { BEGIN(0); if (ordinal < 0 || ordinal >= s_devices) FAIL(INVALID_DEVICE); *device = ordinal + 10; END; }
#define CHECK_DEVICE(device) if (device < 10 || device >= 10 + s_devices) FAIL(INVALID_DEVICE)
int cuDeviceGetName(char *name, int length, int device) { BEGIN(0); CHECK_DEVICE(device); snprintf(name, length, "Fake GPU %d", device - 10); END; }
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    BEGIN(0);
    CHECK_DEVICE(device);
    *value = attribute == 75 ? s_major : attribute == 76 ? s_minor : attribute == 16 ? 132 : attribute == 97 ? 232448 : 0;
    END;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { BEGIN(0); CHECK_DEVICE(device); *bytes = s_device[device - 10].total; END; }
int cuDevicePrimaryCtxRetain(void **context, int device) { BEGIN(0); CHECK_DEVICE(device); s_device[device - 10].retained++; *context = &s_device[device - 10]; END; }
int cuDevicePrimaryCtxRelease_v2(int device) { BEGIN(0); CHECK_DEVICE(device); if (!s_device[device - 10].retained) FAIL(INVALID_CONTEXT); s_device[device - 10].retained--; END; }
int cuCtxSetCurrent(void *context)
{
    BEGIN(0);
    int found = !context;
    for (int i = 0; i < s_devices; i++) found |= context == &s_device[i] && s_device[i].retained;
    if (!found) FAIL(INVALID_CONTEXT);
    s_current = context;
    END;
}
int cuThreadExchangeStreamCaptureMode(int *mode) { BEGIN(1); int old = s_mode; if (*mode < GLOBAL || *mode > RELAXED) FAIL(INVALID_VALUE); s_mode = *mode; *mode = old; END; }
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
    if (!launch && !strcmp(name, "scale"))
    {
        Function *f = malloc(sizeof *f);
        *f = (Function){ ((Module *)module)->functions };
        *function = ((Module *)module)->functions = f;
        END;
    }
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
    FAIL(NOT_FOUND);
}
// Of a module of the current context.
static Function *find_function(void *function)
{
    for (int i = 0; i < s_things; i++)
    {
        if (!s_live[i].address || s_live[i].kind != MODULE || s_live[i].device != s_current) continue;
        for (Function *f = ((Module *)s_live[i].address)->functions; f; f = f->next) if (f == function) return f;
    }
    return 0;
}
int cuFuncSetAttribute(void *function, int attribute, int value) { BEGIN(1); if (!find_function(function)) FAIL(INVALID_HANDLE); if (attribute != 8 || value > 232448) FAIL(INVALID_VALUE); END; }

// scale(const float *x, float *y, float factor, int count): one thread an element.
int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *stream, void **arguments, void **extra)
{
    BEGIN(1);
    Function *f = find_function(function);
    if (!f) FAIL(INVALID_HANDLE);
    if (!gx || !gy || !gz || (size_t)bx * by * bz > 1024 || !bx || !by || !bz || extra) FAIL(INVALID_VALUE);
    CHECK_STREAM(stream);
    Graph *graph = capturing(stream);
    if (graph && (!stream || !f->launch)) FAIL(CAPTURE_UNSUPPORTED);
    if (f->launch)
    {
        int grid[3] = { gx, gy, gz };
        // Grids are limited but for their first size, and shared memory to what needs no attribute.
        if (gy > 65535 || gz > 65535 || (int)bx > f->threads || by != 1 || bz != 1 || shared > 49152) FAIL(INVALID_VALUE);
        if (graph)
        {
            Asked *a = next_asked(graph);
            *a = (Asked){ .launch = f->launch, .grid = { gx, gy, gz }, .threads = bx, .shared = shared, .count = f->parameters };
            for (int i = 0; i < f->parameters; i++) a->values[i] = *(uint64_t *)arguments[i];
            END;
        }
        s_launches++;
        curtain(s_current, 1);
        FAIL(f->launch(grid, bx, shared, 0, arguments, f->parameters) ? ILLEGAL_ADDRESS : SUCCESS);
    }
    const float *x = *(float **)arguments[0];
    float *y = *(float **)arguments[1];
    float factor = *(float *)arguments[2];
    int count = *(int *)arguments[3];
    curtain(s_current, 1);
    if (!inside(x, count * 4u) || !inside(y, count * 4u) || (size_t)gx * bx < (size_t)count) FAIL(INVALID_VALUE);
    for (int i = 0; i < count; i++) y[i] = factor * x[i];
    END;
}

// The launch configuration and its attributes as cuda.h lays them out; what may overlap is done in order all the same.
typedef struct { int id; char pad[4]; union { int on; char bytes[64]; } value; } Attribute;
typedef struct { unsigned gx, gy, gz, bx, by, bz, shared; void *stream; Attribute *attributes; unsigned count; } Launch;
int cuLaunchKernelEx(const Launch *l, void *function, void **arguments, void **extra)
{
    // Compute capability 9.0 or later knows programmatic stream serialisation.
    if (l->count != 1 || l->attributes[0].id != 6 || l->attributes[0].value.on != 1 || s_major < 9) return INVALID_VALUE;
    s_overlapping++;
    return cuLaunchKernel(function, l->gx, l->gy, l->gz, l->bx, l->by, l->bz, l->shared, l->stream, arguments, extra);
}

int cuMemAlloc_v2(void **address, size_t bytes) { BEGIN(1); if (!bytes) FAIL(INVALID_VALUE); void *taken = take(s_current, MEMORY, bytes); if (!taken) FAIL(OUT_OF_MEMORY); *address = taken; END; }
int cuMemFree_v2(void *address) { BEGIN(1); Live *live = find(MEMORY, address); if (!live) FAIL(INVALID_VALUE); give(live); END; }
// Copies look at memory when they are asked for, so that there is nothing to capture.
#define BEGIN_COPY BEGIN(1); CHECK_STREAM(stream); CHECK_NO_CAPTURE(stream)
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) { BEGIN_COPY; if (!inside(to, bytes)) FAIL(INVALID_VALUE); curtain(s_current, 1); memcpy(to, from, bytes); END; }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *stream) { BEGIN_COPY; if (!inside(from, bytes)) FAIL(INVALID_VALUE); curtain(s_current, 1); memcpy(to, from, bytes); END; }
int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) { BEGIN_COPY; if (!inside(to, bytes) || !inside(from, bytes)) FAIL(INVALID_VALUE); curtain(s_current, 1); memmove(to, from, bytes); END; }
int cuMemsetD8Async(void *to, unsigned char value, size_t bytes, void *stream) { BEGIN_COPY; if (!inside(to, bytes)) FAIL(INVALID_VALUE); curtain(s_current, 1); memset(to, value, bytes); END; }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) { BEGIN(1); *total = s_current->total; *free_bytes = s_current->used < *total ? *total - s_current->used : 0; END; }
// Pages are pinned once in the process, for all GPUs.
int cuMemHostRegister_v2(void *address, size_t bytes, unsigned flags) { BEGIN(1); if (find_anywhere(PINNED, address)) FAIL(INVALID_VALUE); add(PINNED, address, bytes); END; }
int cuMemHostUnregister(void *address) { BEGIN(1); Live *live = find(PINNED, address); if (!live) FAIL(INVALID_VALUE); live->address = 0; END; }

int cuStreamCreate(void **stream, unsigned flags) { BEGIN(1); if (flags != 1) FAIL(INVALID_VALUE); *stream = malloc(1); add(STREAM, *stream, 1); END; }
int cuStreamDestroy_v2(void *stream) { BEGIN(1); Live *live = find(STREAM, stream); if (!live) FAIL(INVALID_HANDLE); free(stream); live->address = 0; END; }
int cuStreamSynchronize(void *stream) { BEGIN(1); CHECK_STREAM(stream); CHECK_NO_CAPTURE(stream); s_waits[0]++; END; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { BEGIN(1); if (!find(STREAM, stream) || !find_anywhere(EVENT, event)) FAIL(INVALID_HANDLE); END; }
int cuEventCreate(void **event, unsigned flags) { BEGIN(1); if (flags & ~3u) FAIL(INVALID_VALUE); *event = calloc(1, sizeof(double)); add(EVENT, *event, flags & 2 ? 1 : 2); END; }
int cuEventDestroy_v2(void *event) { BEGIN(1); Live *live = find(EVENT, event); if (!live) FAIL(INVALID_HANDLE); free(event); live->address = 0; END; }
// What was asked for before is done: the time is now.
int cuEventRecord(void *event, void *stream)
{
    BEGIN(1);
    if (!find(EVENT, event)) FAIL(INVALID_HANDLE);
    CHECK_STREAM(stream);
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
        case INVALID_DEVICE: *name = "CUDA_ERROR_INVALID_DEVICE"; break;
        case INVALID_CONTEXT: *name = "CUDA_ERROR_INVALID_CONTEXT"; break;
        case INVALID_PTX: *name = "CUDA_ERROR_INVALID_PTX"; break;
        case INVALID_HANDLE: *name = "CUDA_ERROR_INVALID_HANDLE"; break;
        case NOT_FOUND: *name = "CUDA_ERROR_NOT_FOUND"; break;
        case CAPTURE_UNSUPPORTED: *name = "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"; break;
        case ILLEGAL_ADDRESS: *name = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
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
