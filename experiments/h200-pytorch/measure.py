"""Times what PyTorch's kernels take on this machine's GPU, forward and backward, as JSON lines.

Most published tables hold forward passes of inference kernels. This adds what training needs beside
them: both backward products of a matrix, attention's backward pass, memory-bound kernels, grouped
products, the optimizer, launch costs, and the clock under sustained load.

    python3 measure.py --out rows.jsonl [--sections gemm,attention,...] [--sustained SECONDS]

Each row: section, op, its dimensions, us (microseconds; the mean over repetitions on the device,
between two CUDA events, after warm-up). Operands are random (normal) and, where they are smaller
than the L2 cache, rotated among copies that together exceed it.
"""
import argparse
import functools
import json
import subprocess
import time

import torch
import torch.nn.functional as F

BF16, F32, FP8 = torch.bfloat16, torch.float32, torch.float8_e4m3fn
L2_TIMES = 200e6  # bytes that no cache holds


def randn(*shape, dtype=BF16):
    return torch.randn(*shape, device="cuda", dtype=BF16).to(dtype)


def time_us(calls, budget_ms=15.0, most=200):
    """Microseconds a call takes; `calls`: one function, or several over different buffers in turn."""
    if callable(calls):
        calls = [calls]
    for call in calls[:3]:
        call()
    torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record(); calls[0](); end.record(); torch.cuda.synchronize()
    once = max(start.elapsed_time(end), 1e-3)
    n = int(min(max(budget_ms / once, 3), most))
    start.record()
    for i in range(n):
        calls[i % len(calls)]()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e3 / n


@functools.cache
def side_stream():
    """The stream that graphs are captured on; a backward pass runs on the stream of its forward pass."""
    return torch.cuda.Stream()


def graph_us(calls, replays=5):
    """Microseconds per call in a CUDA graph of all `calls` in turn: no host in the way."""
    calls = calls * -(-32 // len(calls))
    torch.cuda.synchronize()
    with torch.cuda.stream(side_stream()):
        for call in calls[:3]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side_stream()):
        for call in calls:
            call()
    graph.replay(); torch.cuda.synchronize()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(replays):
        graph.replay()
    end.record(); torch.cuda.synchronize()
    us = start.elapsed_time(end) * 1e3 / (replays * len(calls))
    del graph
    return us


def device_us(calls):
    """time_us; in a CUDA graph where the calls are so short that the host's launches may take longer."""
    us = time_us(calls)
    return us if us > 100 else graph_us(calls)


def copies(bytes_per_call):
    return int(min(max(L2_TIMES // max(bytes_per_call, 1) + 1, 2), 64))


class Rows:
    def __init__(self, path):
        self.file, self.section = open(path, "w"), ""

    def add(self, op, us, **dims):
        self.file.write(json.dumps(dict(section=self.section, op=op, **dims, us=round(us, 3))) + "\n")
        self.file.flush()


MATRICES = [  # n, k of y[m, n] = x[m, k] w[n, k]^T
    (6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336),                    # Llama 3 8B
    (10240, 8192), (8192, 8192), (57344, 8192), (8192, 28672),                   # Llama 70B
    (1280, 8192), (8192, 1024), (7168, 8192), (8192, 3584),                      # the same, TP8
    (4608, 12288), (12288, 1536), (6144, 12288), (12288, 6144),                  # GPT 175B, TP8
    (1536, 7168), (24576, 1536), (576, 7168), (32768, 512), (7168, 16384),       # DeepSeek-V3, MLA
    (36864, 7168), (7168, 18432), (4096, 7168), (7168, 2048), (129280, 7168),    # its MLPs and head
    (2112, 7168), (5120, 2048), (2048, 4096), (768, 2048), (256, 7168),
]


def gemm(rows):
    for n, k in MATRICES:
        for m in (512, 1024, 2048, 4096, 8192, 16384):
            if m * n > 1.1e9:
                continue
            size = 2 * (m * n + n * k + m * k)
            several = range(copies(size)) if size < L2_TIMES else range(1)
            x, w, dy = ([randn(*s) for _ in several] for s in ((m, k), (n, k), (m, n)))
            for op, calls in (("forward", [lambda a=a, b=b: a @ b.t() for a, b in zip(x, w)]),
                              ("input_gradient", [lambda a=a, b=b: a @ b for a, b in zip(dy, w)]),
                              ("weight_gradient", [lambda a=a, b=b: a.t() @ b for a, b in zip(dy, x)])):
                rows.add(op, device_us(calls), dtype="bfloat16", m=m, n=n, k=k)
            del x, w, dy


def fp8(rows):
    one = torch.ones((), device="cuda")
    for n, k in MATRICES:
        for m in (1024, 4096, 8192):
            if n % 16 or k % 16:
                continue
            several = range(copies(m * k + n * k + 2 * m * n))
            a, b, x = ([randn(*shape, dtype=dtype) for _ in several] for shape, dtype in (((m, k), FP8), ((n, k), FP8), ((m, k), BF16)))
            per_row = [torch.ones(m, 1, device="cuda"), torch.ones(1, n, device="cuda")]
            for op, sa, sb in (("tensorwise", one, one), ("rowwise", *per_row)):
                try:
                    calls = [lambda a=a, b=b: torch._scaled_mm(a, b.t(), sa, sb, out_dtype=BF16) for a, b in zip(a, b)]
                    rows.add(op, device_us(calls), dtype="fp8", m=m, n=n, k=k)
                except Exception as error:  # a combination this version lacks
                    rows.add(op + " failed: " + str(error)[:80], 0, m=m, n=n, k=k)
            try:
                from torch.nn.functional import ScalingType, scaled_mm
                block_a, block_b = ScalingType.BlockWise1x128, ScalingType.BlockWise128x128
                scale_a = torch.ones(k // 128, m, device="cuda").t()  # both column-major; b's blocks along k padded to 4
                scale_b = torch.ones((n + 127) // 128, (k // 128 + 3) // 4 * 4, device="cuda").t()
                calls = [lambda a=a, b=b: scaled_mm(a, b.t(), scale_a, block_a, scale_b, block_b, output_dtype=BF16) for a, b in zip(a, b)]
                rows.add("blockwise", device_us(calls), dtype="fp8_block", m=m, n=n, k=k)
            except Exception as error:
                rows.add("blockwise failed: " + str(error)[:120], 0, m=m, n=n, k=k)
            rows.add("cast", device_us([lambda x=x: x.to(FP8) for x in x]), dtype="fp8", m=m, n=n, k=k)


HEADS = [  # heads, KV heads, head dim of query and key, of value
    (32, 8, 128, 128), (64, 8, 128, 128), (8, 1, 128, 128), (16, 2, 128, 128), (4, 1, 128, 128), (12, 12, 128, 128),
    (16, 16, 128, 128), (40, 40, 128, 128), (32, 8, 64, 64), (64, 8, 64, 64), (16, 16, 64, 64), (16, 16, 256, 256),
    (128, 128, 192, 128), (16, 16, 192, 128), (32, 32, 192, 128),
]


def attention(rows):
    from torch.nn.attention import SDPBackend, sdpa_kernel
    for heads, kv, d, dv in HEADS:
        for batch, sequence in ((8, 1024), (4, 2048), (1, 4096), (2, 4096), (1, 8192), (1, 16384), (1, 32768)):
            if heads * sequence * sequence > 1.4e11:
                continue
            for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
                dims = dict(backend=backend.name.split("_")[0].lower(), batch=batch, sequence=sequence,
                            heads=heads, kv_heads=kv, head_dim=d, value_dim=dv)
                try:
                    q, k, v = (randn(batch, sequence, h, w).transpose(1, 2).requires_grad_() for h, w in ((heads, d), (kv, d), (kv, dv)))
                    with sdpa_kernel(backend):
                        def forward():
                            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=heads != kv)
                        with torch.no_grad():
                            rows.add("forward", time_us(forward), **dims)
                        out = forward()
                        grad = torch.randn_like(out)
                        rows.add("backward", time_us(lambda: torch.autograd.grad(out, (q, k, v), grad, retain_graph=True)), **dims)
                except Exception as error:
                    rows.add("failed: " + str(error)[:100], 0, **dims)


def unfused(rows):
    """Attention as separate kernels: scores, mask and softmax, weighted values (batch x heads, s, s)."""
    for bh, s, d in ((12, 2048, 128), (48, 2048, 128), (96, 2048, 128), (64, 4096, 128), (16, 4096, 128)):
        q, k, v = (randn(bh, s, d) for _ in range(3))
        scores = q @ k.transpose(1, 2)
        mask = torch.ones(s, s, device="cuda", dtype=torch.bool).triu(1)
        p = scores.softmax(-1).requires_grad_()
        raw = scores.clone().requires_grad_()
        soft = raw.softmax(-1)
        for op, call in (("scores", lambda: q @ k.transpose(1, 2)), ("mask", lambda: scores.masked_fill(mask, -1e4)),
                         ("softmax", lambda: scores.softmax(-1)), ("values", lambda: p @ v),
                         ("softmax_backward", lambda: torch.autograd.grad(soft, raw, scores, retain_graph=True)),
                         ("dropout", lambda: F.dropout(scores, 0.1))):
            rows.add(op, time_us(call), batch_heads=bh, sequence=s, head_dim=d)


def memory_bound(rows):
    def both(op, make, inputs, moved, **dims):
        with torch.cuda.stream(side_stream()):
            sets = [inputs() for _ in range(copies(moved))]
            with torch.no_grad():
                rows.add(op, graph_us([lambda s=s: make(*s) for s in sets]), **dims)
            try:
                outs = [make(*[t.requires_grad_() for t in s]) for s in sets]
                grads = [torch.randn_like(o) for o in outs]
                rows.add(op + "_backward", graph_us([lambda o=o, g=g, s=s: torch.autograd.grad(o, s, g, retain_graph=True)
                                                     for o, g, s in zip(outs, grads, sets)]), **dims)
            except Exception as error:
                rows.add(op + "_backward failed: " + str(error)[:100], 0, **dims)

    for m in (1024, 4096, 8192, 16384, 32768):
        for h in (1536, 2048, 4096, 7168, 12288):
            size, dims = 2 * m * h, dict(rows=m, width=h)
            both("rms_norm", lambda x, w: F.rms_norm(x, (h,), w), lambda: (randn(m, h), randn(h)), 2 * size, **dims)
            both("layer_norm", lambda x, w, b: F.layer_norm(x, (h,), w, b), lambda: (randn(m, h), randn(h), randn(h)), 2 * size, **dims)
            both("gelu", lambda x: F.gelu(x, approximate="tanh"), lambda: (randn(m, h),), 2 * size, **dims)
            both("silu_mul", lambda a, b: F.silu(a) * b, lambda: (randn(m, h), randn(m, h)), 3 * size, **dims)
            both("add", lambda a, b: a + b, lambda: (randn(m, h), randn(m, h)), 3 * size, **dims)
            both("dropout", lambda x: F.dropout(x, 0.1), lambda: (randn(m, h),), 2 * size, **dims)
            i = torch.randperm(m, device="cuda")
            xs = [randn(m, h) for _ in range(copies(2 * size))]
            mains = [torch.zeros(m, h, device="cuda") for _ in xs]
            rows.add("gather_rows", device_us([lambda x=x: x[i] for x in xs]), **dims)
            rows.add("scatter_add_rows", device_us([lambda x=x: torch.zeros_like(x).index_add_(0, i, x) for x in xs]), **dims)
            rows.add("copy", device_us([lambda x=x: x.clone() for x in xs]), **dims)
            rows.add("transpose", device_us([lambda x=x: x.t().contiguous() for x in xs]), **dims)
            rows.add("cast_to_float", device_us([lambda x=x: x.float() for x in xs]), **dims)
            rows.add("accumulate_gradient", device_us([lambda a=a, x=x: a.add_(x) for a, x in zip(mains, xs)]), **dims)
            rows.add("zero", device_us([lambda a=a: a.zero_() for a in mains]), **dims)
            del xs, mains
    for m, v, h in ((4096, 32000, 4096), (4096, 128256, 4096), (4096, 129280, 7168), (8192, 51200, 2048), (2048, 6400, 12288)):
        table, ids = randn(v, h).requires_grad_(), torch.randint(0, v, (m,), device="cuda")
        out = F.embedding(ids, table)
        g = torch.randn_like(out)
        dims = dict(rows=m, vocabulary=v, width=h)
        rows.add("embedding", time_us(lambda: F.embedding(ids, table)), **dims)
        rows.add("embedding_backward", time_us(lambda: torch.autograd.grad(out, table, g, retain_graph=True)), **dims)
        logits = randn(m, v).requires_grad_()
        loss = F.cross_entropy(logits.float(), ids)
        rows.add("cross_entropy", time_us(lambda: F.cross_entropy(logits.float(), ids)), **dims)
        rows.add("cross_entropy_backward", time_us(lambda: torch.autograd.grad(loss, logits, retain_graph=True)), **dims)
    for e, k, m in ((256, 8, 4096), (256, 8, 16384), (128, 8, 8192), (8, 2, 8192)):
        scores = randn(m, e)
        rows.add("topk", time_us(lambda: scores.topk(k, -1)), rows=m, width=e, k=k)
        rows.add("softmax_rows", time_us(lambda: scores.softmax(-1)), rows=m, width=e, k=k)


def grouped(rows):
    for n, k, experts in ((4096, 7168, 8), (7168, 2048, 8), (4096, 7168, 32), (7168, 2048, 32), (28672, 4096, 8), (4096, 14336, 8),
                          (28672, 4096, 1), (1536, 2048, 16), (2048, 768, 16), (3072, 4096, 16), (4096, 1536, 16), (5760, 2880, 32)):
        for per_expert in (128, 256, 512, 1024, 2048, 4096):
            m = per_expert * experts
            if m * max(n, k) > 1.2e9:
                continue
            for spread in ("balanced", "uneven"):
                share = torch.ones(experts) if spread == "balanced" else torch.rand(experts) + 0.1
                counts = (share / share.sum() * m / 16).floor().int() * 16
                counts[-1] += m - int(counts.sum())
                offsets = counts.cumsum(0).to(torch.int32).cuda()
                x, w, dy = randn(m, k), randn(experts, n, k), randn(m, n)
                dims = dict(rows=m, n=n, k=k, experts=experts, spread=spread)
                try:
                    rows.add("forward", time_us(lambda: torch._grouped_mm(x, w.transpose(1, 2), offs=offsets)), **dims)
                    rows.add("input_gradient", time_us(lambda: torch._grouped_mm(dy, w, offs=offsets)), **dims)
                    rows.add("weight_gradient", time_us(lambda: torch._grouped_mm(dy.t(), x, offs=offsets)), **dims)
                except Exception as error:
                    rows.add("failed: " + str(error)[:100], 0, **dims)
                if experts == 1:
                    break


def optimizer(rows):
    for count, tensors in ((1 << 28, 1), (1 << 28, 64), (1 << 28, 1024), (1 << 24, 64)):
        params = [torch.zeros(count // tensors, device="cuda", requires_grad=True) for _ in range(tensors)]
        for p in params:
            p.grad = torch.randn_like(p)
        step = torch.optim.AdamW(params, lr=1e-4, fused=True)
        dims = dict(elements=count, tensors=tensors)
        rows.add("adamw_fused", time_us(step.step, 60), **dims)
        rows.add("gradient_norm", time_us(lambda: torch.nn.utils.get_total_norm([p.grad for p in params]), 60), **dims)
        halves = [torch.zeros_like(p, dtype=BF16) for p in params]
        rows.add("cast_to_bfloat16", time_us(lambda: torch._foreach_copy_(halves, [p.detach() for p in params]), 60), **dims)
        del params, step, halves


def launch(rows):
    small = torch.zeros(32, device="cuda")
    for _ in range(1000):  # the first launches load the kernel
        small.add_(1)
    for n in (200, 2000):
        torch.cuda.synchronize(); began = time.perf_counter()
        for _ in range(n):
            small.add_(1)
        host = time.perf_counter() - began
        torch.cuda.synchronize()
        rows.add("eager_host", host * 1e6 / n, kernels=n)
        rows.add("eager_total", (time.perf_counter() - began) * 1e6 / n, kernels=n)
    rows.add("graph_small", graph_us([lambda: small.add_(1)] * 1000), kernels=1000)
    x = randn(4096, 4096)
    for elements in (1 << 20, 1 << 22, 1 << 24, 1 << 26):
        big = torch.zeros(elements, device="cuda")
        rows.add("graph_add", graph_us([lambda: big.add_(1)] * 100), elements=elements)
        rows.add("eager_add", time_us(lambda: big.add_(1), 20, 1000), elements=elements)
    for n in (512, 1024, 2048, 4096):
        w = randn(n, n)
        rows.add("graph_matmul", graph_us([lambda: w @ w] * 50), n=n)
        rows.add("eager_matmul", time_us(lambda: w @ w, 20, 1000), n=n)
    linear = torch.nn.Linear(1024, 1024, device="cuda", dtype=BF16)
    y = randn(128, 1024)
    for i in range(520):
        if i == 20:  # warm
            torch.cuda.synchronize(); began = time.perf_counter()
        linear(y).sum().backward()
    rows.add("eager_linear_step_host", (time.perf_counter() - began) * 1e6 / 500)


def layers(rows):
    """Whole layers of a dense model (Llama's form), forward and backward, eager and compiled."""
    class Layer(torch.nn.Module):
        def __init__(self, h, heads, kv, mlp):
            super().__init__()
            self.heads, self.kv, self.d = heads, kv, h // heads
            linear = lambda a, b: torch.nn.Linear(a, b, bias=False, device="cuda", dtype=BF16)
            self.qkv, self.o = linear(h, (heads + 2 * kv) * self.d), linear(h, h)
            self.up, self.down = linear(h, 2 * mlp), linear(mlp, h)
            self.n1, self.n2 = (torch.nn.RMSNorm(h, device="cuda", dtype=BF16) for _ in range(2))

        def rotate(self, x, cos, sin):
            a, b = x.chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

        def forward(self, x, cos, sin):
            b, s, h = x.shape
            q, k, v = self.qkv(self.n1(x)).view(b, s, -1, self.d).split((self.heads, self.kv, self.kv), 2)
            q, k = self.rotate(q, cos, sin), self.rotate(k, cos, sin)
            a = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True)
            x = x + self.o(a.transpose(1, 2).reshape(b, s, h))
            gate, up = self.up(self.n2(x)).chunk(2, -1)
            return x + self.down(F.silu(gate) * up)

    for name, h, heads, kv, mlp in (("llama3_8b", 4096, 32, 8, 14336), ("llama3_70b", 8192, 64, 8, 28672)):
        layer = Layer(h, heads, kv, mlp)
        for batch, s in ((1, 4096), (2, 4096), (1, 8192)):
            x = randn(batch, s, h).requires_grad_()
            angle = torch.rand(s, 1, layer.d // 2, device="cuda")
            cos, sin = angle.cos().to(BF16), angle.sin().to(BF16)
            for kind, module in (("eager", layer), ("compiled", torch.compile(layer, dynamic=False))):
                torch._dynamo.reset()  # else the limit on recompilations leaves the later shapes eager
                try:
                    dims = dict(model=name, kind=kind, batch=batch, sequence=s)
                    with torch.no_grad():
                        rows.add("forward", time_us(lambda: module(x, cos, sin), 40), **dims)
                    out = module(x, cos, sin)
                    g = torch.randn_like(out)
                    def step():
                        torch.autograd.grad(module(x, cos, sin), [x, *layer.parameters()], g)
                    rows.add("forward_and_backward", time_us(step, 60), **dims)
                except Exception as error:
                    rows.add("failed: " + str(error)[:100], 0, **dims)


def sustained(rows, seconds=50):
    """Rates second by second under load, with the clock, power and temperature the card reports."""
    a, b = randn(8192, 8192), randn(8192, 8192)
    out = torch.empty(8192, 8192, device="cuda", dtype=BF16)
    time.sleep(3)
    began = time.perf_counter()
    while (now := time.perf_counter() - began) < seconds:
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(11)]  # between two of them: 50 products
        for i, mark in enumerate(marks):
            mark.record()
            for _ in range(50 if i < 10 else 0):
                torch.matmul(a, b, out=out)
        state = subprocess.run(["nvidia-smi", "--query-gpu=clocks.sm,power.draw.instant,temperature.gpu", "--format=csv,noheader,nounits"],
                               capture_output=True, text=True).stdout.strip()  # asked while the products run
        clock, power, celsius = (state.split(", ") + ["", "", ""])[:3]
        torch.cuda.synchronize()
        for i, (start, end) in enumerate(zip(marks, marks[1:])):
            us = start.elapsed_time(end) * 1e3 / 50
            rows.add("matmul_8192", us, second=round(now + marks[0].elapsed_time(start) / 1e3, 2), tflops=round(2 * 8192**3 / us / 1e6, 1),
                     **(dict(clock_mhz=clock, power_w=power, celsius=celsius) if i == 0 else {}))
    for n, k in MATRICES[:12]:  # the same products on the warm card
        x, w = randn(8192, k), randn(n, k)
        rows.add("warm_forward", time_us(lambda: x @ w.t(), 100), m=8192, n=n, k=k)


SECTIONS = dict(launch=launch, gemm=gemm, fp8=fp8, attention=attention, unfused=unfused, memory_bound=memory_bound,
                grouped=grouped, optimizer=optimizer, sustained=sustained, layers=layers)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="rows.jsonl", help="file of JSON lines")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="which: " + ",".join(SECTIONS))
    parser.add_argument("--sustained", type=float, default=50, help="seconds of sustained load")
    arguments = parser.parse_args()
    rows = Rows(arguments.out)
    rows.section = "machine"
    rows.add("machine", 0, device=torch.cuda.get_device_name(), torch=torch.__version__, cuda=torch.version.cuda,
             cudnn=torch.backends.cudnn.version())
    for name in arguments.sections.split(","):
        began = time.perf_counter()
        rows.section = name
        try:
            SECTIONS[name](rows, **({"seconds": arguments.sustained} if name == "sustained" else {}))
        except Exception as error:
            rows.add("section failed: " + str(error)[:200], 0)
        torch.cuda.empty_cache()
        print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
