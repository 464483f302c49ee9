// The plain nodes of an exported graph, as a provider with a device of its own computes them. Part of FakeExecutionProvider.c.

typedef struct { OrtKernelImpl impl; } Node;
typedef struct { char *data; int64_t sizes[8]; size_t rank, count; } Tensor;

static OrtStatus *input(OrtKernelContext *context, size_t index, Tensor *tensor)
{
    const OrtValue *value;
    OrtTensorTypeAndShapeInfo *shape;
    OrtStatus *status = s_api->KernelContext_GetInput(context, index, &value);
    if (!status) status = s_api->GetTensorData(value, (const void **)&tensor->data);
    if (!status) status = s_api->GetTensorTypeAndShape(value, &shape);
    if (status) return status;
    status = s_api->GetDimensionsCount(shape, &tensor->rank);
    if (!status) status = s_api->GetDimensions(shape, tensor->sizes, tensor->rank);
    if (!status) status = s_api->GetTensorShapeElementCount(shape, &tensor->count);
    s_api->ReleaseTensorTypeAndShapeInfo(shape);
    return status;
}
static OrtStatus *output(OrtKernelContext *context, const int64_t *sizes, size_t rank, void **data)
{
    OrtValue *value;
    OrtStatus *status = s_api->KernelContext_GetOutput(context, 0, sizes, rank, &value);
    if (!status) status = s_api->GetTensorMutableData(value, data);
    // Of a step without logits there are tensors without elements, which have no address.
    for (size_t i = 0; i < rank; i++) if (!sizes[i]) return status;
    return status || *data ? status : s_api->CreateStatus(ORT_FAIL, "CUDA failure 2: out of memory");
}

typedef struct { const char *a, *b; void *y; size_t count, width; } Task;

// Does what a node does, or has it captured to be done later. As a kernel of CUDA's it runs on the thread's GPU: the stream and all it reads and writes must be that one's.
static OrtStatus *perform(OrtKernelContext *context, void (*call)(const void *), Task task)
{
    int gpu = s_driver_current();
    void *stream;
    OrtStatus *status = s_api->KernelContext_GetGPUComputeStream(context, &stream);
    if (status) return status;
    if (gpu < 0 || (stream != &s_stream && s_driver_stream_device(stream) != gpu)) return invalid_handle();
    const void *places[] = { task.a, task.b, task.y };
    for (int i = 0; i < 3; i++) if (task.count && places[i] && s_driver_device_of(places[i]) != gpu) return s_api->CreateStatus(ORT_FAIL, "CUDA failure 700: an illegal memory access was encountered");
    if (s_driver_capturing(stream)) { s_driver_call(stream, call, &task, sizeof task); return 0; }
    device_open(gpu);
    call(&task);
    device_close();
    return 0;
}

// [n, width] rows by int index
static void do_gather(const void *data)
{
    const Task *t = data;
    for (size_t i = 0; i < t->count; i++) memcpy((char *)t->y + i * t->width, t->a + ((const int *)t->b)[i] * t->width, t->width);
}
static void do_widen(const void *data)
{
    const Task *t = data;
    for (size_t i = 0; i < t->count; i++) ((uint32_t *)t->y)[i] = (uint32_t)((const uint16_t *)t->a)[i] << 16;
}
static OrtStatus *gather(OrtKernelContext *context, size_t element)
{
    Tensor table, indices;
    void *y;
    OrtStatus *status = input(context, 0, &table);
    if (!status) status = input(context, 1, &indices);
    if (!status) status = output(context, (int64_t[]){ indices.count, table.sizes[1] }, 2, &y);
    return status ? status : perform(context, do_gather, (Task){ table.data, indices.data, y, indices.count, table.sizes[1] * element });
}
static OrtStatus *ORT_API_CALL gather_float(OrtKernelImpl *self, OrtKernelContext *context) { return gather(context, 4); }
static OrtStatus *ORT_API_CALL gather_bfloat16(OrtKernelImpl *self, OrtKernelContext *context) { return gather(context, 2); }

static OrtStatus *ORT_API_CALL widen(OrtKernelImpl *self, OrtKernelContext *context)
{
    Tensor x;
    void *y;
    OrtStatus *status = input(context, 0, &x);
    if (!status) status = output(context, x.sizes, x.rank, &y);
    return status ? status : perform(context, do_widen, (Task){ x.data, 0, y, x.count });
}

static void do_add(const void *data)
{
    const Task *t = data;
    for (size_t i = 0; i < t->count; i++) ((float *)t->y)[i] = ((const float *)t->a)[i] + ((const float *)t->b)[i];
}
static OrtStatus *ORT_API_CALL add(OrtKernelImpl *self, OrtKernelContext *context)
{
    Tensor a, b;
    void *y;
    OrtStatus *status = input(context, 0, &a);
    if (!status) status = input(context, 1, &b);
    if (!status) status = output(context, a.sizes, a.rank, &y);
    return status ? status : perform(context, do_add, (Task){ a.data, b.data, y, a.count });
}

static void ORT_API_CALL node_release(OrtKernelImpl *self) { free(self); }
static OrtStatus *ORT_API_CALL create_node(void *compute, const OrtKernelInfo *info, OrtKernelImpl **kernel)
{
    Node *node = calloc(1, sizeof *node);
    node->impl.ort_version_supported = ORT_API_VERSION;
    node->impl.Compute = (OrtStatus *(ORT_API_CALL *)(OrtKernelImpl *, OrtKernelContext *))compute;
    node->impl.Release = node_release;
    *kernel = &node->impl;
    return 0;
}

static OrtStatus *add_node(const char *name, void *compute, const char *first, ONNXTensorElementDataType first_type, const char *second, ONNXTensorElementDataType second_type)
{
    const OrtDataType *types[2];
    OrtKernelDefBuilder *builder;
    OrtKernelDef *definition = 0;
    OrtStatus *status = s_ep_api->GetTensorDataType(first_type, &types[0]);
    if (!status && second) status = s_ep_api->GetTensorDataType(second_type, &types[1]);
    if (!status) status = s_ep_api->CreateKernelDefBuilder(&builder);
    if (status) return status;
    status = s_ep_api->KernelDefBuilder_SetOperatorType(builder, name);
    if (!status) status = s_ep_api->KernelDefBuilder_SetDomain(builder, "");
    if (!status) status = s_ep_api->KernelDefBuilder_SetSinceVersion(builder, 1, 1 << 30);
    if (!status) status = s_ep_api->KernelDefBuilder_SetExecutionProvider(builder, "CUDAExecutionProvider");
    if (!status) status = s_ep_api->KernelDefBuilder_AddTypeConstraint(builder, first, &types[0], 1);
    if (!status && second) status = s_ep_api->KernelDefBuilder_AddTypeConstraint(builder, second, &types[1], 1);
    if (!status) status = s_ep_api->KernelDefBuilder_Build(builder, &definition);
    if (!status) status = s_ep_api->KernelRegistry_AddKernel(s_registry, definition, create_node, compute);
    if (definition) s_ep_api->ReleaseKernelDef(definition);
    s_ep_api->ReleaseKernelDefBuilder(builder);
    return status;
}

static OrtStatus *add_nodes(void)
{
    enum { FLOAT = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, BFLOAT16 = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16, INT32 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32 };
    OrtStatus *status = add_node("Gather", gather_float, "T", FLOAT, "Tind", INT32);
    if (!status) status = add_node("Gather", gather_bfloat16, "T", BFLOAT16, "Tind", INT32);
    if (!status) status = add_node("Cast", widen, "T1", BFLOAT16, "T2", FLOAT);
    if (!status) status = add_node("Add", add, "T", FLOAT, 0, FLOAT);
    return status;
}
