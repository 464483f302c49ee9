"""Measures what PyTorch does on this GPU at the sizes of the plan in argv[1]. Prints one JSON object a line: the versions, then {"name", "seconds"} or {"name", "skipped"} of each; {"absent"} where there is nothing to measure."""
import json
import statistics
import sys


def say(**line):
    print(json.dumps(line), flush=True)


try:
    import torch
    import torch.nn.functional as F
except Exception as e:  # A broken installation raises many things.
    say(absent=f"{type(e).__name__}: {e}")
    sys.exit(0)
if not torch.cuda.is_available():
    say(absent=f"PyTorch {torch.__version__} finds no CUDA device.")
    sys.exit(0)

LEAST_SECONDS, RUNS, ROTATING_BYTES = 0.1, 3, 512 << 20
say(torch=torch.__version__, cuda=str(torch.version.cuda), device=torch.cuda.get_device_name(0))


def run(calls, call):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for i in range(calls):
        call(i)
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


def seconds(call):
    for i in range(3):
        call(i)
    torch.cuda.synchronize()
    calls = int(min(max(LEAST_SECONDS / max(run(1, call), 1e-7), 3), 5000))
    return statistics.median(run(calls, call) for _ in range(RUNS))


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def matmul(tokens, rows, columns):
    x = random(tokens, columns)
    # So many that no cache holds the next one.
    weights = [random(rows, columns) for _ in range(max(1, ROTATING_BYTES // (2 * rows * columns)))]
    return seconds(lambda i: F.linear(x, weights[i % len(weights)]))


def copy(bytes):
    source = torch.zeros(bytes // 2, device="cuda", dtype=torch.uint8)
    target = torch.empty_like(source)
    return seconds(lambda i: target.copy_(source))


def attention(sequences, tokens, depth, heads, kvHeads, headDim):
    q = random(sequences, heads, tokens, headDim)
    k, v = random(sequences, kvHeads, depth, headDim), random(sequences, kvHeads, depth, headDim)
    causal = {}
    if tokens == depth:
        causal = {"is_causal": True}
    elif tokens > 1:
        from torch.nn.attention.bias import causal_lower_right
        causal = {"attn_mask": causal_lower_right(tokens, depth)}
        # This mask knows no groups of heads.
        k, v = k.repeat_interleave(heads // kvHeads, 1), v.repeat_interleave(heads // kvHeads, 1)
    if k.shape[1] != heads:
        causal["enable_gqa"] = True
    return seconds(lambda i: F.scaled_dot_product_attention(q, k, v, **causal))


with torch.no_grad():
    for item in json.loads(sys.argv[1]):
        name, kind = item.pop("name"), item.pop("kind")
        try:
            say(name=name, seconds={"matmul": matmul, "copy": copy, "attention": attention}[kind](**item))
        except Exception as e:  # An older PyTorch lacks some of it; a smaller card has no room.
            say(name=name, skipped=f"{type(e).__name__}: {e}")
        torch.cuda.empty_cache()
