// The plain nodes of an exported graph, as a provider with a device of its own computes them. Part of FakeExecutionProvider.c.
#include <math.h>

typedef struct { OrtKernelImpl impl; float epsilon; } Node;
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

// [n, width] rows by int index
static OrtStatus *gather(OrtKernelContext *context, size_t element)
{
    Tensor table, indices;
    void *y;
    OrtStatus *status = input(context, 0, &table);
    if (!status) status = input(context, 1, &indices);
    if (!status) status = output(context, (int64_t[]){ indices.count, table.sizes[1] }, 2, &y);
    if (status) return status;
    size_t bytes = table.sizes[1] * element;
    device_open();
    for (size_t i = 0; i < indices.count; i++) memcpy((char *)y + i * bytes, table.data + ((int *)indices.data)[i] * bytes, bytes);
    device_close();
    return 0;
}
static OrtStatus *ORT_API_CALL gather_float(OrtKernelImpl *self, OrtKernelContext *context) { return gather(context, 4); }
static OrtStatus *ORT_API_CALL gather_bfloat16(OrtKernelImpl *self, OrtKernelContext *context) { return gather(context, 2); }

static OrtStatus *ORT_API_CALL widen(OrtKernelImpl *self, OrtKernelContext *context)
{
    Tensor x;
    void *y;
    OrtStatus *status = input(context, 0, &x);
    if (!status) status = output(context, x.sizes, x.rank, &y);
    if (status) return status;
    device_open();
    for (size_t i = 0; i < x.count; i++) ((uint32_t *)y)[i] = (uint32_t)((uint16_t *)x.data)[i] << 16;
    device_close();
    return 0;
}

static OrtStatus *ORT_API_CALL add_rows(OrtKernelImpl *self, OrtKernelContext *context)
{
    Tensor a, b;
    void *y;
    OrtStatus *status = input(context, 0, &a);
    if (!status) status = input(context, 1, &b);
    if (!status) status = output(context, a.sizes, a.rank, &y);
    if (status) return status;
    if (a.count != b.count) return s_api->CreateStatus(ORT_INVALID_ARGUMENT, "Add of different shapes.");
    device_open();
    for (size_t i = 0; i < a.count; i++) ((float *)y)[i] = ((float *)a.data)[i] + ((float *)b.data)[i];
    device_close();
    return 0;
}

static OrtStatus *ORT_API_CALL rms_norm(OrtKernelImpl *self, OrtKernelContext *context)
{
    Tensor x, weight;
    void *y;
    OrtStatus *status = input(context, 0, &x);
    if (!status) status = input(context, 1, &weight);
    if (!status) status = output(context, x.sizes, x.rank, &y);
    if (status) return status;
    device_open();
    for (size_t first = 0; first < x.count; first += weight.count)
    {
        float *row = (float *)x.data + first, *out = (float *)y + first, sum = 0;
        for (size_t i = 0; i < weight.count; i++) sum += row[i] * row[i];
        float scale = 1 / sqrtf(sum / weight.count + ((Node *)self)->epsilon);
        for (size_t i = 0; i < weight.count; i++) out[i] = row[i] * scale * ((float *)weight.data)[i];
    }
    device_close();
    return 0;
}

static void ORT_API_CALL node_release(OrtKernelImpl *self) { free(self); }
static OrtStatus *ORT_API_CALL create_node(void *compute, const OrtKernelInfo *info, OrtKernelImpl **kernel)
{
    Node *node = calloc(1, sizeof *node);
    node->impl.ort_version_supported = ORT_API_VERSION;
    node->impl.Compute = (OrtStatus *(ORT_API_CALL *)(OrtKernelImpl *, OrtKernelContext *))compute;
    node->impl.Release = node_release;
    OrtStatus *status = compute == (void *)rms_norm ? s_api->KernelInfoGetAttribute_float(info, "epsilon", &node->epsilon) : 0;
    *kernel = &node->impl;
    return status;
}

static OrtStatus *add_node(const char *name, void *compute, const char *first, ONNXTensorElementDataType first_type, const char *second, ONNXTensorElementDataType second_type)
{
    const OrtDataType *types[2];
    OrtKernelDefBuilder *builder;
    OrtKernelDef *definition = 0;
    OrtStatus *status = s_ep_api->GetTensorDataType(first_type, &types[0]);
    if (!status) status = s_ep_api->GetTensorDataType(second_type, &types[1]);
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
    if (!status) status = add_node("Add", add_rows, "T", FLOAT, 0, FLOAT);
    if (!status) status = add_node("RMSNormalization", rms_norm, "T", FLOAT, "V", FLOAT);
    return status;
}
