// An execution provider in the name of CUDA's, for an ONNX Runtime without CUDA: it takes the nodes that custom operators are registered for under that name, has memory of its own on a "GPU" that the CPU
// can read, copies between both, and has one stream. It computes nothing itself.
// Compiled with DRIVER, the path of a driver without a GPU, its memory and its streams are that driver's, on several GPUs, and it has kernels for the plain nodes of a graph, as CUDA's has (FakeProviderNodes.c). A
// session is of one GPU, with its own memory. Where CUDA's provider makes a GPU the thread's, so does this one, and leaves it so.
#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef DRIVER
enum { GPUS = 4 };
#else
enum { GPUS = 1 };
#endif
static const OrtApi *s_api;
static const OrtEpApi *s_ep_api;
static OrtMemoryInfo *s_memory[GPUS];
static OrtKernelRegistry *s_registry;
static pthread_mutex_t s_lock = PTHREAD_MUTEX_INITIALIZER;
static struct { char *address; size_t bytes; } s_live[8192];
static int s_copies_in, s_copies_out, s_taken, s_stream;
static void *(*s_driver_alloc)(int, size_t);
static void (*s_driver_free)(void *), (*s_driver_open)(int), (*s_driver_close)(void);
static int (*s_driver_set_device)(int), (*s_driver_current)(void), (*s_driver_device_of)(const void *), (*s_driver_stream_device)(const void *);
static void (*s_driver_wait)(void);
static int (*s_driver_wait_for_gpu)(int);
static int (*s_driver_begin)(void *), (*s_driver_capturing)(const void *), (*s_driver_replay)(int);
static void (*s_driver_end)(int), (*s_driver_call)(const void *, void (*)(const void *), const void *, size_t);
static void device_open(int gpu) { if (s_driver_open) s_driver_open(gpu); }
static void device_close(void) { if (s_driver_close) s_driver_close(); }
static OrtStatus *invalid_handle(void) { return s_api->CreateStatus(ORT_FAIL, "CUDA failure 400: invalid resource handle"); }

void fake_ep_counts(int *in, int *out, int *taken, int *live)
{
    *in = s_copies_in; *out = s_copies_out; *taken = s_taken; *live = 0;
    for (int i = 0; i < 8192; i++) *live += s_live[i].address != 0;
}
void *fake_ep_stream(void) { return &s_stream; }
int fake_ep_inside(const char *address)
{
    pthread_mutex_lock(&s_lock);
    int found = 0;
    for (int i = 0; i < 8192; i++) found |= s_live[i].address && address >= s_live[i].address && address < s_live[i].address + s_live[i].bytes;
    pthread_mutex_unlock(&s_lock);
    return found;
}

// CUDA's allocator makes its GPU the thread's where it asks for memory or gives it back, and leaves it so. In a run it seldom has to: an operator that leaves another GPU the thread's must not be saved by it.
static __thread int s_is_running;
static void make_current(int gpu) { if (!s_is_running) s_driver_set_device(gpu); }

// Memory of one GPU, for one session or for what belongs to none. As CUDA's provider does where it captures graphs, it may keep what was freed, so that a graph finds it again.
typedef struct { void *address; size_t bytes; int is_free; } Piece;
typedef struct { OrtAllocator base; int gpu, keeps, count; size_t limit, taken; pthread_mutex_t lock; Piece pieces[8192]; } Pool;
static void *ORT_API_CALL allocate(struct OrtAllocator *self, size_t bytes)
{
    Pool *pool = (Pool *)self;
    if (!bytes) return 0;
    if (!s_driver_alloc)
    {
        char *address = aligned_alloc(256, (bytes + 255) / 256 * 256);
        pthread_mutex_lock(&s_lock);
        for (int i = 0; i < 8192; i++) if (!s_live[i].address) { s_live[i].address = address; s_live[i].bytes = bytes; break; }
        pthread_mutex_unlock(&s_lock);
        return address;
    }
    void *address = 0;
    pthread_mutex_lock(&pool->lock);
    for (int i = 0; i < pool->count && !address; i++) if (pool->pieces[i].is_free && pool->pieces[i].bytes == bytes) { pool->pieces[i].is_free = 0; address = pool->pieces[i].address; }
    if (!address && pool->count < 8192 && (!pool->limit || pool->taken + bytes <= pool->limit))
    {
        make_current(pool->gpu);
        address = s_driver_alloc(pool->gpu, bytes);
        if (address) { pool->pieces[pool->count++] = (Piece){ address, bytes }; pool->taken += bytes; }
    }
    pthread_mutex_unlock(&pool->lock);
    return address;
}
static void give_back(Pool *pool, int piece)
{
    make_current(pool->gpu);
    s_driver_free(pool->pieces[piece].address);
    pool->taken -= pool->pieces[piece].bytes;
    pool->pieces[piece] = pool->pieces[--pool->count];
}
static void ORT_API_CALL release(struct OrtAllocator *self, void *address)
{
    Pool *pool = (Pool *)self;
    if (!address) return;
    if (!s_driver_free)
    {
        pthread_mutex_lock(&s_lock);
        for (int i = 0; i < 8192; i++) if (s_live[i].address == address) s_live[i].address = 0;
        pthread_mutex_unlock(&s_lock);
        free(address);
        return;
    }
    pthread_mutex_lock(&pool->lock);
    for (int i = 0; i < pool->count; i++)
    {
        if (pool->pieces[i].address != address) continue;
        if (pool->keeps) pool->pieces[i].is_free = 1;
        else give_back(pool, i);
        break;
    }
    pthread_mutex_unlock(&pool->lock);
}
static const OrtMemoryInfo *ORT_API_CALL memory_info(const struct OrtAllocator *self) { return s_memory[((const Pool *)self)->gpu]; }
static OrtStatus *create_pool(const OrtMemoryInfo *memory, size_t limit, int keeps, OrtAllocator **allocator)
{
    int gpu = 0;
    OrtStatus *status = memory ? s_api->MemoryInfoGetId(memory, &gpu) : 0;
    if (status) return status;
    Pool *pool = calloc(1, sizeof *pool);
    pool->base = (OrtAllocator){ .version = ORT_API_VERSION, .Alloc = allocate, .Free = release, .Info = memory_info, .Reserve = allocate };
    pool->gpu = gpu;
    pool->limit = limit;
    pool->keeps = keeps;
    pthread_mutex_init(&pool->lock, 0);
    *allocator = &pool->base;
    return 0;
}
static void ORT_API_CALL release_allocator(OrtEpFactory *self, OrtAllocator *allocator)
{
    Pool *pool = (Pool *)allocator;
    for (int i = pool->count - 1; i >= 0; i--) if (pool->pieces[i].is_free) give_back(pool, i);
    free(pool);
}

static void ORT_API_CALL transfer_release(OrtDataTransferImpl *self) { }
static bool is_gpu(const OrtMemoryDevice *device) { return s_ep_api->MemoryDevice_GetDeviceType(device) == OrtMemoryInfoDeviceType_GPU; }
// Between the CPU and a GPU, and within one.
static bool ORT_API_CALL can_copy(const OrtDataTransferImpl *self, const OrtMemoryDevice *source, const OrtMemoryDevice *target)
{
    if (is_gpu(source) && is_gpu(target)) return s_ep_api->MemoryDevice_GetDeviceId(source) == s_ep_api->MemoryDevice_GetDeviceId(target);
    return is_gpu(source) || is_gpu(target);
}
static OrtStatus *ORT_API_CALL copy(OrtDataTransferImpl *self, const OrtValue **sources, OrtValue **targets, OrtSyncStream **streams, size_t count)
{
    for (size_t i = 0; i < count; i++)
    {
        const void *from;
        void *to;
        size_t bytes;
        OrtStatus *status = s_api->GetTensorData(sources[i], &from);
        if (!status) status = s_api->GetTensorMutableData(targets[i], &to);
        if (!status) status = s_api->GetTensorSizeInBytes(sources[i], &bytes);
        if (status) return status;
        // What the allocator had no memory for has no address.
        if (bytes && (!to || !from)) return s_api->CreateStatus(ORT_FAIL, "CUDA failure 2: out of memory");
        if (s_driver_capturing && s_driver_capturing(streams && streams[i] ? s_api->SyncStream_GetHandle(streams[i]) : 0)) return s_api->CreateStatus(ORT_FAIL, "CUDA failure 900: operation not permitted when stream is capturing");
        const OrtMemoryDevice *source = s_ep_api->Value_GetMemoryDevice(sources[i]), *target = s_ep_api->Value_GetMemoryDevice(targets[i]);
        int gpu = s_ep_api->MemoryDevice_GetDeviceId(is_gpu(target) ? target : source);
        // What is said to lie on a GPU does.
        if (s_driver_device_of && bytes && ((is_gpu(source) && s_driver_device_of(from) != gpu) || (is_gpu(target) && s_driver_device_of(to) != gpu))) return s_api->CreateStatus(ORT_FAIL, "CUDA failure 1: invalid argument");
        device_open(gpu);
        memcpy(to, from, bytes);
        device_close();
        if (is_gpu(target)) s_copies_in++;
        else s_copies_out++;
    }
    return 0;
}
static OrtDataTransferImpl s_transfer = { .ort_version_supported = ORT_API_VERSION, .Release = transfer_release, .CanCopy = can_copy, .CopyTensors = copy };

static void ORT_API_CALL notification_release(OrtSyncNotificationImpl *self) { }
static OrtStatus *ORT_API_CALL notification_activate(OrtSyncNotificationImpl *self) { return 0; }
static OrtStatus *ORT_API_CALL notification_device(OrtSyncNotificationImpl *self, OrtSyncStream *consumer) { return 0; }
static OrtStatus *ORT_API_CALL notification_host(OrtSyncNotificationImpl *self) { return 0; }
static OrtSyncNotificationImpl s_notification = { .ort_version_supported = ORT_API_VERSION, .Release = notification_release, .Activate = notification_activate, .WaitOnDevice = notification_device, .WaitOnHost = notification_host };

static void ORT_API_CALL stream_release(OrtSyncStreamImpl *self) { }
// A stream of the application's belongs to its session.
typedef struct { OrtSyncStreamImpl impl; void *handle; } Stream;
static void *ORT_API_CALL stream_handle(OrtSyncStreamImpl *self) { return ((Stream *)self)->handle; }
static OrtStatus *ORT_API_CALL stream_notification(OrtSyncStreamImpl *self, OrtSyncNotificationImpl **notification) { *notification = &s_notification; return 0; }
static OrtStatus *ORT_API_CALL stream_done(OrtSyncStreamImpl *self) { return 0; }
static Stream s_stream_impl = { { .ort_version_supported = ORT_API_VERSION, .Release = stream_release, .GetHandle = stream_handle, .CreateNotification = stream_notification, .Flush = stream_done, .OnSessionRunEnd = stream_done }, &s_stream };

// Copies between nodes of this provider and the CPU's. Without kernels of its own for them ONNX Runtime takes the CPU's, whose outputs are in the CPU's memory always.
static OrtStatus *ORT_API_CALL copy_tensor(OrtKernelImpl *self, OrtKernelContext *context)
{
    const OrtValue *source;
    OrtValue *target;
    OrtTensorTypeAndShapeInfo *shape;
    int64_t sizes[8];
    size_t rank;
    OrtStatus *status = s_api->KernelContext_GetInput(context, 0, &source);
    if (!status) status = s_api->GetTensorTypeAndShape(source, &shape);
    if (status) return status;
    status = s_api->GetDimensionsCount(shape, &rank);
    if (!status) status = s_api->GetDimensions(shape, sizes, rank);
    s_api->ReleaseTensorTypeAndShapeInfo(shape);
    if (!status) status = s_api->KernelContext_GetOutput(context, 0, sizes, rank, &target);
    return status ? status : copy(&s_transfer, &source, &target, 0, 1);
}
static void ORT_API_CALL kernel_release(OrtKernelImpl *self) { }
static OrtKernelImpl s_copy = { .ort_version_supported = ORT_API_VERSION, .Compute = copy_tensor, .Release = kernel_release };
static OrtStatus *ORT_API_CALL create_copy(void *state, const OrtKernelInfo *info, OrtKernelImpl **kernel) { *kernel = &s_copy; return 0; }
static OrtStatus *add_copy(const char *name, int from_host)
{
    const OrtDataType *types[3];
    OrtKernelDefBuilder *builder;
    OrtKernelDef *definition = 0;
    OrtStatus *status = s_ep_api->GetTensorDataType(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &types[0]);
    if (!status) status = s_ep_api->GetTensorDataType(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32, &types[1]);
    if (!status) status = s_ep_api->GetTensorDataType(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, &types[2]);
    if (!status) status = s_ep_api->CreateKernelDefBuilder(&builder);
    if (status) return status;
    status = s_ep_api->KernelDefBuilder_SetOperatorType(builder, name);
    if (!status) status = s_ep_api->KernelDefBuilder_SetDomain(builder, "");
    if (!status) status = s_ep_api->KernelDefBuilder_SetSinceVersion(builder, 1, 1 << 30);
    if (!status) status = s_ep_api->KernelDefBuilder_SetExecutionProvider(builder, "CUDAExecutionProvider");
    if (!status) status = from_host ? s_ep_api->KernelDefBuilder_SetInputMemType(builder, 0, OrtMemTypeCPUInput) : s_ep_api->KernelDefBuilder_SetOutputMemType(builder, 0, OrtMemTypeCPUOutput);
    if (!status) status = s_ep_api->KernelDefBuilder_AddTypeConstraint(builder, "T", types, 3);
    if (!status) status = s_ep_api->KernelDefBuilder_Build(builder, &definition);
    if (!status) status = s_ep_api->KernelRegistry_AddKernel(s_registry, definition, create_copy, 0);
    if (definition) s_ep_api->ReleaseKernelDef(definition);
    s_ep_api->ReleaseKernelDefBuilder(builder);
    return status;
}

#ifdef DRIVER
#include "FakeProviderNodes.c"
static OrtStatus *bind_driver(void)
{
    void *driver = dlopen(DRIVER, RTLD_NOW);
    s_driver_alloc = dlsym(driver, "fake_provider_alloc");
    s_driver_free = dlsym(driver, "fake_provider_free");
    s_driver_set_device = dlsym(driver, "fake_set_device");
    s_driver_current = dlsym(driver, "fake_current");
    s_driver_device_of = dlsym(driver, "fake_device_of");
    s_driver_stream_device = dlsym(driver, "fake_stream_device");
    s_driver_wait_for_gpu = dlsym(driver, "fake_provider_wait_for_gpu");
    s_driver_wait = dlsym(driver, "fake_provider_wait");
    s_driver_begin = dlsym(driver, "fake_capture_begin");
    s_driver_end = dlsym(driver, "fake_capture_end");
    s_driver_capturing = dlsym(driver, "fake_capturing");
    s_driver_call = dlsym(driver, "fake_capture_call");
    s_driver_replay = dlsym(driver, "fake_replay");
    s_driver_open = dlsym(driver, "fake_open");
    s_driver_close = dlsym(driver, "fake_close");
    return add_nodes();
}
#endif

static const char *ORT_API_CALL ep_name(const OrtEp *self) { return "CUDAExecutionProvider"; }
static OrtStatus *ORT_API_CALL capability(OrtEp *self, const OrtGraph *graph, OrtEpGraphSupportInfo *support)
{
    size_t count;
    OrtStatus *status = s_api->Graph_GetNumNodes(graph, &count);
    if (status) return status;
    const OrtNode **nodes = malloc(count * sizeof *nodes + 1);
    status = s_api->Graph_GetNodes(graph, nodes, count);
    for (size_t i = 0; !status && i < count; i++)
    {
        const OrtKernelDef *kernel = 0;
        status = s_ep_api->EpGraphSupportInfo_LookUpKernel(support, nodes[i], &kernel);
        if (!status && kernel) { status = s_ep_api->EpGraphSupportInfo_AddSingleNode(support, nodes[i]); s_taken++; }
    }
    free(nodes);
    return status;
}

// A session's. Captured graphs are by the application's number; the first run of a number is an ordinary one, as CUDA's provider has it.
typedef struct { OrtEp base; Stream stream; int gpu, keeps, runs[256], graphs[256], capturing; size_t limit; } Ep;
static OrtStatus *ORT_API_CALL ep_stream(OrtEp *self, const OrtMemoryDevice *device, OrtSyncStreamImpl **stream) { *stream = &((Ep *)self)->stream.impl; return 0; }
static OrtStatus *ORT_API_CALL ep_allocator(OrtEp *self, const OrtMemoryInfo *memory, OrtAllocator **allocator) { return create_pool(memory, ((Ep *)self)->limit, ((Ep *)self)->keeps, allocator); }
static int graph_id(const OrtRunOptions *options)
{
    const char *text = s_api->GetRunConfigEntry(options, "gpu_graph_id");
    return text ? atoi(text) : 0;
}
static bool ORT_API_CALL captures(const OrtEp *self) { return true; }
static bool ORT_API_CALL is_captured(const OrtEp *self, int id) { return id >= 0 && ((const Ep *)self)->graphs[id]; }
static OrtStatus *replay(int graph)
{
    int failed = s_driver_replay(graph);
    return !failed ? 0 : failed == 400 ? invalid_handle() : s_api->CreateStatus(ORT_FAIL, "CUDA failure 700: an illegal memory access was encountered");
}
// Unlike a run's start, a replay makes no GPU the thread's.
static OrtStatus *ORT_API_CALL replay_graph(OrtEp *self, int id) { return replay(((Ep *)self)->graphs[id] - 1); }
static void end_capture(Ep *ep) { if (ep->capturing) s_driver_end(ep->capturing - 1); }
// As CUDA's provider, which makes its GPU the calling thread's and leaves it so.
static OrtStatus *ORT_API_CALL run_start(OrtEp *self, const OrtRunOptions *options)
{
    Ep *ep = (Ep *)self;
    s_driver_set_device(ep->gpu);
    s_is_running = 1;
    if (!ep->keeps) return 0;
    int id = graph_id(options);
    end_capture(ep);
    ep->capturing = id >= 0 && !ep->graphs[id] && ep->runs[id] ? s_driver_begin(ep->stream.handle) + 1 : 0;
    return 0;
}
static OrtStatus *ORT_API_CALL run_end(OrtEp *self, const OrtRunOptions *options, bool sync)
{
    Ep *ep = (Ep *)self;
    s_is_running = 0;
    if (sync && !ep->capturing) s_driver_wait();
    if (!ep->keeps) return 0;
    int id = graph_id(options), captured = ep->capturing;
    end_capture(ep);
    ep->capturing = 0;
    if (id >= 0) ep->runs[id]++;
    if (!captured) return 0;
    ep->graphs[id] = captured;
    // What was captured was not done yet.
    return replay(captured - 1);
}

static OrtStatus *ORT_API_CALL kernels(OrtEp *self, const OrtKernelRegistry **registry) { *registry = s_registry; return 0; }

static const char *ORT_API_CALL factory_name(const OrtEpFactory *self) { return "CUDAExecutionProvider"; }
static const char *ORT_API_CALL factory_vendor(const OrtEpFactory *self) { return "tests"; }
static uint32_t ORT_API_CALL vendor_id(const OrtEpFactory *self) { return 0x10DE; }
static const char *ORT_API_CALL factory_version(const OrtEpFactory *self) { return "0.1.0"; }
static OrtStatus *ORT_API_CALL supported(OrtEpFactory *self, const OrtHardwareDevice *const *devices, size_t count, OrtEpDevice **ep_devices, size_t most, size_t *found)
{
    *found = 0;
    for (size_t i = 0; i < count; i++)
    {
        // Any hardware will do, and a CPU is always there.
        if (s_api->HardwareDevice_Type(devices[i]) != OrtHardwareDeviceType_CPU) continue;
        OrtStatus *status = 0;
        for (; !status && *found < GPUS && *found < most; ++*found)
        {
            status = s_ep_api->CreateEpDevice(self, devices[i], 0, 0, &ep_devices[*found]);
            if (!status) status = s_ep_api->EpDevice_AddAllocatorInfo(ep_devices[*found], s_memory[*found]);
        }
        return status;
    }
    return 0;
}
// A setting of the session, or what it is without.
static unsigned long long setting(const OrtSessionOptions *options, const char *name, unsigned long long otherwise)
{
    char text[32];
    size_t length = sizeof text;
    OrtStatus *status = s_api->GetSessionConfigEntry(options, name, text, &length);
    if (!status) return strtoull(text, 0, 10);
    s_api->ReleaseStatus(status);
    return otherwise;
}
static OrtStatus *ORT_API_CALL create_ep(OrtEpFactory *self, const OrtHardwareDevice *const *devices, const OrtKeyValuePairs *const *metadata, size_t count, const OrtSessionOptions *options, const OrtLogger *logger, OrtEp **created)
{
    int gpu = setting(options, "ep.cuda.device_id", 0);
    // The stream that the application wants the provider to use.
    void *stream = (void *)setting(options, "ep.cuda.user_compute_stream", (uintptr_t)&s_stream);
    if (s_driver_set_device && (gpu >= GPUS || s_driver_set_device(gpu))) return s_api->CreateStatus(ORT_FAIL, "CUDA failure 101: invalid device ordinal");
    if (s_driver_stream_device && stream != &s_stream && s_driver_stream_device(stream) != gpu) return invalid_handle();
    if (s_driver_wait_for_gpu && s_driver_wait_for_gpu(gpu)) return s_api->CreateStatus(ORT_FAIL, "CUDA failure 900: operation not permitted when stream is capturing");
    Ep *ep = calloc(1, sizeof *ep);
    ep->stream = s_stream_impl;
    ep->stream.handle = stream;
    ep->gpu = gpu;
    ep->limit = setting(options, "ep.cuda.gpu_mem_limit", 0);
    ep->keeps = setting(options, "ep.cuda.enable_cuda_graph", 0) == 1;
    if (ep->keeps)
    {
        ep->base.IsGraphCaptureEnabled = captures;
        ep->base.IsGraphCaptured = is_captured;
        ep->base.ReplayGraph = replay_graph;
    }
    if (s_driver_set_device)
    {
        ep->base.OnRunStart = run_start;
        ep->base.OnRunEnd = run_end;
    }
    ep->base.ort_version_supported = ORT_API_VERSION;
    ep->base.GetName = ep_name;
    ep->base.GetCapability = capability;
    ep->base.CreateAllocator = ep_allocator;
    ep->base.CreateSyncStreamForDevice = ep_stream;
    ep->base.GetKernelRegistry = kernels;
    *created = &ep->base;
    return 0;
}
static void ORT_API_CALL release_ep(OrtEpFactory *self, struct OrtEp *ep) { end_capture((Ep *)ep); free(ep); }
static OrtStatus *ORT_API_CALL create_allocator(OrtEpFactory *self, const OrtMemoryInfo *memory, const OrtKeyValuePairs *options, OrtAllocator **allocator) { return create_pool(memory, 0, 0, allocator); }
static OrtStatus *ORT_API_CALL create_transfer(OrtEpFactory *self, OrtDataTransferImpl **transfer) { *transfer = &s_transfer; return 0; }
static bool ORT_API_CALL stream_aware(const OrtEpFactory *self) { return true; }
static OrtStatus *ORT_API_CALL factory_stream(OrtEpFactory *self, const OrtMemoryDevice *device, const OrtKeyValuePairs *options, OrtSyncStreamImpl **stream) { *stream = &s_stream_impl.impl; return 0; }

static OrtEpFactory s_factory = {
    .ort_version_supported = ORT_API_VERSION, .GetName = factory_name, .GetVendor = factory_vendor, .GetSupportedDevices = supported, .CreateEp = create_ep, .ReleaseEp = release_ep, .GetVendorId = vendor_id,
    .GetVersion = factory_version, .CreateAllocator = create_allocator, .ReleaseAllocator = release_allocator, .CreateDataTransfer = create_transfer, .IsStreamAware = stream_aware, .CreateSyncStreamForDevice = factory_stream,
};

OrtStatus *CreateEpFactories(const char *name, const OrtApiBase *base, const OrtLogger *logger, OrtEpFactory **factories, size_t most, size_t *count)
{
    s_api = base->GetApi(ORT_API_VERSION);
    s_ep_api = s_api->GetEpApi();
    OrtStatus *status = 0;
    for (int i = 0; i < GPUS && !status; i++) status = s_api->CreateMemoryInfo_V2("Cuda", OrtMemoryInfoDeviceType_GPU, 0x10DE, i, OrtDeviceMemoryType_DEFAULT, 0, OrtDeviceAllocator, &s_memory[i]);
    if (!status) status = s_ep_api->CreateKernelRegistry(&s_registry);
    if (!status) status = add_copy("MemcpyFromHost", 1);
    if (!status) status = add_copy("MemcpyToHost", 0);
#ifdef DRIVER
    if (!status) status = bind_driver();
#endif
    factories[0] = &s_factory;
    *count = 1;
    return status;
}
OrtStatus *ReleaseEpFactory(OrtEpFactory *factory)
{
    s_ep_api->ReleaseKernelRegistry(s_registry);
    for (int i = 0; i < GPUS; i++) s_api->ReleaseMemoryInfo(s_memory[i]);
    return 0;
}
