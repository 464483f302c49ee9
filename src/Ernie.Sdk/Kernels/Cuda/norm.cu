//  RMS norm
//      x, out  [rows, columns]   float
//      weight  [columns]         float
//  Math       out = x / sqrt(mean(x²) + epsilon) · weight
//  Reference  RMSNormalization of ONNX, opset 23
//  Tolerance  1e-6 relative: sums in float, 256 of them by a tree

// grid rows; block 256; shared 32
KERNEL(256) rms_norm(const float* x, const float* weight, float* out, int columns, float epsilon)
{
    await_previous();
    const s64 row = (s64)block_x() * columns;
    float sum = 0;
    for (int c = thread_x(); c < columns; c += 256) sum = fused(x[row + c], x[row + c], sum);
    sum = warp_sum(sum);
    float* sums = shared<float>();
    if (lane_index() == 0) sums[warp_index()] = sum;
    sync_threads();
    float total = 0;
    UNROLL for (int w = 0; w < 8; w++) total += sums[w];
    const float scale = 1 / __builtin_sqrtf(total / (float)columns + epsilon);
    for (int c = thread_x(); c < columns; c += 256) out[row + c] = x[row + c] * scale * weight[c];
}

// sum = a + b, and out = RMS norm of it: the residual of a layer and the norm that follows.
// grid rows; block 256; shared 32
KERNEL(256) add_rms_norm(const float* a, const float* b, const float* weight, float* sum_out, float* out, int columns, float epsilon)
{
    await_previous();
    const s64 row = (s64)block_x() * columns;
    float sum = 0;
    for (int c = thread_x(); c < columns; c += 256)
    {
        const float x = a[row + c] + b[row + c];
        sum_out[row + c] = x;
        sum = fused(x, x, sum);
    }
    sum = warp_sum(sum);
    float* sums = shared<float>();
    if (lane_index() == 0) sums[warp_index()] = sum;
    sync_threads();
    float total = 0;
    UNROLL for (int w = 0; w < 8; w++) total += sums[w];
    const float scale = 1 / __builtin_sqrtf(total / (float)columns + epsilon);
    for (int c = thread_x(); c < columns; c += 256) out[row + c] = sum_out[row + c] * scale * weight[c];
}
