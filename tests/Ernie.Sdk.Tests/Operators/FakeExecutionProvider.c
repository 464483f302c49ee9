// An execution provider in the name of CUDA's, for an ONNX Runtime without CUDA: it takes the nodes that custom operators are registered for under that name, has memory of its own on a "GPU" that the CPU
// can read, copies between both, and has one stream. It computes nothing itself.
// Compiled with DRIVER, the path of a driver without a GPU, its memory and its stream are that driver's, and it has kernels for the plain nodes of a graph, as CUDA's has (FakeProviderNodes.c).
#include <dlfcn.h>
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

static const OrtApi *s_api;
static const OrtEpApi *s_ep_api;
static OrtMemoryInfo *s_memory;
static OrtKernelRegistry *s_registry;
static pthread_mutex_t s_lock = PTHREAD_MUTEX_INITIALIZER;
static struct { char *address; size_t bytes; } s_live[8192];
static int s_copies_in, s_copies_out, s_taken, s_stream;
static void *(*s_driver_alloc)(size_t);
static size_t (*s_driver_used)(void), s_memory_limit;
static void (*s_driver_free)(void *), (*s_driver_open)(void), (*s_driver_close)(void);
static int (*s_driver_begin)(void), (*s_driver_capturing)(void), (*s_driver_replay)(int);
static void (*s_driver_end)(void), (*s_driver_call)(void (*)(const void *), const void *, size_t);
// As CUDA's provider does where it captures graphs, this one keeps memory that was freed, so that a graph finds it again.
static int s_keeps;
static struct { void *address; size_t bytes; int is_free; } s_kept[8192];
static int s_kept_count;
static void device_open(void) { if (s_driver_open) s_driver_open(); }
static void device_close(void) { if (s_driver_close) s_driver_close(); }

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

static void *ORT_API_CALL allocate(struct OrtAllocator *self, size_t bytes)
{
    if (!bytes) return 0;
    for (int i = 0; s_keeps && i < s_kept_count; i++) if (s_kept[i].is_free && s_kept[i].bytes == bytes) { s_kept[i].is_free = 0; return s_kept[i].address; }
    if (s_keeps && s_kept_count < 8192)
    {
        void *address = s_driver_alloc(bytes);
        if (address) { s_kept[s_kept_count].address = address; s_kept[s_kept_count].bytes = bytes; s_kept[s_kept_count++].is_free = 0; }
        return address;
    }
    if (s_driver_alloc) return s_memory_limit && s_driver_used() + bytes > s_memory_limit ? 0 : s_driver_alloc(bytes);
    char *address = aligned_alloc(256, (bytes + 255) / 256 * 256);
    pthread_mutex_lock(&s_lock);
    for (int i = 0; i < 8192; i++) if (!s_live[i].address) { s_live[i].address = address; s_live[i].bytes = bytes; break; }
    pthread_mutex_unlock(&s_lock);
    return address;
}
static void ORT_API_CALL release(struct OrtAllocator *self, void *address)
{
    for (int i = 0; s_keeps && i < s_kept_count; i++) if (address && s_kept[i].address == address) { s_kept[i].is_free = 1; return; }
    if (s_driver_free) { s_driver_free(address); return; }
    pthread_mutex_lock(&s_lock);
    for (int i = 0; i < 8192; i++) if (address && s_live[i].address == address) s_live[i].address = 0;
    pthread_mutex_unlock(&s_lock);
    free(address);
}
static const OrtMemoryInfo *ORT_API_CALL memory_info(const struct OrtAllocator *self) { return s_memory; }
static OrtAllocator s_allocator = { .version = ORT_API_VERSION, .Alloc = allocate, .Free = release, .Info = memory_info, .Reserve = allocate };

static void ORT_API_CALL transfer_release(OrtDataTransferImpl *self) { }
static bool is_gpu(const OrtMemoryDevice *device) { return s_ep_api->MemoryDevice_GetDeviceType(device) == OrtMemoryInfoDeviceType_GPU; }
static bool ORT_API_CALL can_copy(const OrtDataTransferImpl *self, const OrtMemoryDevice *source, const OrtMemoryDevice *target) { return is_gpu(source) || is_gpu(target); }
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
        if (s_driver_capturing && s_driver_capturing()) return s_api->CreateStatus(ORT_FAIL, "CUDA failure 900: operation not permitted when stream is capturing");
        device_open();
        memcpy(to, from, bytes);
        device_close();
        if (is_gpu(s_ep_api->Value_GetMemoryDevice(targets[i]))) s_copies_in++;
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
    s_driver_used = dlsym(driver, "fake_provider_used");
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

// Captured graphs, by the application's number. The first run of a number is an ordinary one, as CUDA's provider has it.
typedef struct { OrtEp base; Stream stream; int runs[256], graphs[256], capturing; } GraphEp;
static OrtStatus *ORT_API_CALL ep_stream(OrtEp *self, const OrtMemoryDevice *device, OrtSyncStreamImpl **stream) { *stream = &((GraphEp *)self)->stream.impl; return 0; }
static int graph_id(const OrtRunOptions *options)
{
    const char *text = s_api->GetRunConfigEntry(options, "gpu_graph_id");
    return text ? atoi(text) : 0;
}
static bool ORT_API_CALL captures(const OrtEp *self) { return true; }
static bool ORT_API_CALL is_captured(const OrtEp *self, int id) { return id >= 0 && ((const GraphEp *)self)->graphs[id]; }
static OrtStatus *replay(int graph) { return s_driver_replay(graph) ? s_api->CreateStatus(ORT_FAIL, "CUDA failure 700: an illegal memory access was encountered") : 0; }
static OrtStatus *ORT_API_CALL replay_graph(OrtEp *self, int id) { return replay(((GraphEp *)self)->graphs[id] - 1); }
static OrtStatus *ORT_API_CALL run_start(OrtEp *self, const OrtRunOptions *options)
{
    GraphEp *ep = (GraphEp *)self;
    int id = graph_id(options);
    s_driver_end();
    ep->capturing = id >= 0 && !ep->graphs[id] && ep->runs[id] ? s_driver_begin() + 1 : 0;
    return 0;
}
static OrtStatus *ORT_API_CALL run_end(OrtEp *self, const OrtRunOptions *options, bool sync)
{
    GraphEp *ep = (GraphEp *)self;
    int id = graph_id(options);
    s_driver_end();
    if (id >= 0) ep->runs[id]++;
    if (!ep->capturing) return 0;
    ep->graphs[id] = ep->capturing;
    // What was captured was not done yet.
    return replay(ep->graphs[id] - 1);
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
        OrtStatus *status = s_ep_api->CreateEpDevice(self, devices[i], 0, 0, &ep_devices[0]);
        if (!status) status = s_ep_api->EpDevice_AddAllocatorInfo(ep_devices[0], s_memory);
        if (!status) *found = 1;
        return status;
    }
    return 0;
}
static OrtStatus *ORT_API_CALL create_ep(OrtEpFactory *self, const OrtHardwareDevice *const *devices, const OrtKeyValuePairs *const *metadata, size_t count, const OrtSessionOptions *options, const OrtLogger *logger, OrtEp **ep)
{
    GraphEp *graph_ep = calloc(1, sizeof *graph_ep);
    OrtEp *created = &graph_ep->base;
    graph_ep->stream = s_stream_impl;
    // The stream that the application wants the provider to use.
    char stream[32];
    size_t length = sizeof stream;
    OrtStatus *status = s_api->GetSessionConfigEntry(options, "ep.cuda.user_compute_stream", stream, &length);
    if (status) s_api->ReleaseStatus(status);
    else graph_ep->stream.handle = (void *)strtoull(stream, 0, 10);
    char limit[32];
    length = sizeof limit;
    status = s_api->GetSessionConfigEntry(options, "ep.cuda.gpu_mem_limit", limit, &length);
    s_memory_limit = status ? 0 : strtoull(limit, 0, 10);
    if (status) s_api->ReleaseStatus(status);
    char graphs[8];
    length = sizeof graphs;
    status = s_api->GetSessionConfigEntry(options, "ep.cuda.enable_cuda_graph", graphs, &length);
    s_keeps = !status && !strcmp(graphs, "1");
    if (status) s_api->ReleaseStatus(status);
    if (s_keeps)
    {
        created->IsGraphCaptureEnabled = captures;
        created->IsGraphCaptured = is_captured;
        created->ReplayGraph = replay_graph;
        created->OnRunStart = run_start;
        created->OnRunEnd = run_end;
    }
    created->ort_version_supported = ORT_API_VERSION;
    created->GetName = ep_name;
    created->GetCapability = capability;
    created->CreateSyncStreamForDevice = ep_stream;
    created->GetKernelRegistry = kernels;
    *ep = created;
    return 0;
}
static void ORT_API_CALL release_ep(OrtEpFactory *self, struct OrtEp *ep)
{
    for (int i = 0; s_keeps && i < s_kept_count; i++) if (s_kept[i].is_free) s_driver_free(s_kept[i].address);
    // What is in use still goes to the driver when it is freed.
    s_kept_count = s_keeps = 0;
    free(ep);
}
static OrtStatus *ORT_API_CALL create_allocator(OrtEpFactory *self, const OrtMemoryInfo *memory, const OrtKeyValuePairs *options, OrtAllocator **allocator) { *allocator = &s_allocator; return 0; }
static void ORT_API_CALL release_allocator(OrtEpFactory *self, OrtAllocator *allocator) { }
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
    OrtStatus *status = s_api->CreateMemoryInfo_V2("Cuda", OrtMemoryInfoDeviceType_GPU, 0x10DE, 0, OrtDeviceMemoryType_DEFAULT, 0, OrtDeviceAllocator, &s_memory);
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
OrtStatus *ReleaseEpFactory(OrtEpFactory *factory) { s_ep_api->ReleaseKernelRegistry(s_registry); s_api->ReleaseMemoryInfo(s_memory); return 0; }
