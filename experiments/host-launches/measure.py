#!/usr/bin/env python3
"""What the host takes to launch a layer, forward and backward, in eager PyTorch: layers so small that
the device waits for the host.

    python3 experiments/host-launches/measure.py --out rows.jsonl

Each row: kind of layer, pass, microseconds of the host (wall clock per repetition, the device done
before the next one begins is not waited for), and how many kernels one repetition launches, as the
profiler counts them.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F

BF16 = torch.bfloat16


class Dense(torch.nn.Module):
    """Grouped-query attention with RoPE, and SwiGLU; norms before both."""

    def __init__(self, hidden=512, heads=8, kv_heads=2, width=1024):
        super().__init__()
        d = hidden // heads
        self.heads, self.kv_heads, self.d = heads, kv_heads, d
        linear = lambda i, o: torch.nn.Linear(i, o, bias=False, dtype=BF16, device="cuda")
        self.norm1 = torch.nn.Parameter(torch.ones(hidden, dtype=BF16, device="cuda"))
        self.norm2 = torch.nn.Parameter(torch.ones(hidden, dtype=BF16, device="cuda"))
        self.qkv = linear(hidden, (heads + 2 * kv_heads) * d)
        self.out = linear(heads * d, hidden)
        self.ffn(hidden, width, linear)

    def ffn(self, hidden, width, linear):
        self.up = linear(hidden, 2 * width)
        self.down = linear(width, hidden)

    def rope(self, x, cos, sin):
        a, b = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-b, a), dim=-1) * sin

    def mlp(self, x):
        gate, up = self.up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)

    def forward(self, x, cos, sin):
        b, s, h = x.shape
        y = F.rms_norm(x, (h,), self.norm1)
        q, k, v = self.qkv(y).split(
            [self.heads * self.d, self.kv_heads * self.d, self.kv_heads * self.d], dim=-1)
        q = self.rope(q.view(b, s, self.heads, self.d).transpose(1, 2), cos, sin)
        k = self.rope(k.view(b, s, self.kv_heads, self.d).transpose(1, 2), cos, sin)
        v = v.view(b, s, self.kv_heads, self.d).transpose(1, 2)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(o.transpose(1, 2).reshape(b, s, -1))
        return x + self.mlp(F.rms_norm(x, (h,), self.norm2))


class Experts(Dense):
    """Softmax over the chosen of `experts`, rows put in order, one product per expert and matrix."""

    def __init__(self, experts=16, top_k=8, **sizes):
        self.experts, self.top_k = experts, top_k
        super().__init__(**sizes)

    def ffn(self, hidden, width, linear):
        self.router = linear(hidden, self.experts)
        self.ups = torch.nn.ModuleList(linear(hidden, 2 * width) for _ in range(self.experts))
        self.downs = torch.nn.ModuleList(linear(width, hidden) for _ in range(self.experts))

    def mlp(self, x):
        b, s, h = x.shape
        x = x.reshape(-1, h)
        scores, chosen = torch.topk(torch.softmax(self.router(x).float(), dim=-1), self.top_k)
        scores = (scores / scores.sum(dim=-1, keepdim=True)).to(BF16)
        order = chosen.view(-1).argsort(stable=True)
        rows = x[order // self.top_k]
        # Equal loads, so that the host need not wait for counts.
        parts = rows.chunk(self.experts)
        done = []
        for part, up, down in zip(parts, self.ups, self.downs):
            gate, value = up(part).chunk(2, dim=-1)
            done.append(down(F.silu(gate) * value))
        out = torch.cat(done) * scores.view(-1)[order].unsqueeze(-1)
        return torch.zeros_like(x).index_add_(0, order // self.top_k, out).view(b, s, h)


def kernels_of(f):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as p:
        f()
        torch.cuda.synchronize()
    return sum(1 for e in p.events() if e.device_type == torch.autograd.DeviceType.CUDA)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    out = open(options.out, "w")

    def add(**row):
        out.write(json.dumps(row) + "\n")
        print(row, flush=True)

    add(section="machine", device=torch.cuda.get_device_name(), torch=torch.__version__,
        cpu=open("/proc/cpuinfo").read().split("model name")[1].split("\n")[0].strip(": \t"))
    layers = 8
    for name, make in (("dense", Dense), ("experts_16", Experts)):
        torch.manual_seed(0)
        stack = [make() for _ in range(layers)]
        x = torch.randn(1, 128, 512, dtype=BF16, device="cuda", requires_grad=True)
        angle = torch.rand(128, 64, device="cuda")
        cos, sin = angle.cos().to(BF16), angle.sin().to(BF16)

        def forward():
            y = x
            for layer in stack:
                y = layer(y, cos, sin)
            return y

        gradient = torch.randn_like(x)
        for _ in range(5):
            forward().backward(gradient)
        torch.cuda.synchronize()
        repetitions = 30
        times = {"forward": 0.0, "backward": 0.0}
        for _ in range(repetitions):
            torch.cuda.synchronize()
            began = time.perf_counter()
            y = forward()
            torch.cuda.synchronize()
            between = time.perf_counter()
            y.backward(gradient)
            torch.cuda.synchronize()
            times["forward"] += between - began
            times["backward"] += time.perf_counter() - between
        y = forward()
        kernels = {"forward": kernels_of(forward), "backward": kernels_of(lambda: y.backward(gradient))}
        for part, seconds in times.items():
            us = seconds * 1e6 / repetitions / layers
            count = kernels[part] / layers
            add(section="layer", kind=name, part=part, us=round(us, 1), kernels=round(count, 1),
                us_per_kernel=round(us / count, 2))
    # Layers as large as a rank's part of published models: where the device decides, or the host.
    for name, make, tokens, hidden, d in (
        ("qwen3-30b, 16 experts", lambda: Experts(16, 8, hidden=2048, heads=16, kv_heads=2, width=768), 4096, 2048, 128),
        ("gpt-oss, 16 experts", lambda: Experts(16, 4, hidden=2880, heads=45, kv_heads=9, width=2880), 4096, 2880, 64),
        ("qwen3-235b, 8 experts", lambda: Experts(8, 8, hidden=4096, heads=32, kv_heads=4, width=1536), 4096, 4096, 128),
        ("dense of 4096", lambda: Dense(hidden=4096, heads=32, kv_heads=8, width=14336), 4096, 4096, 128),
    ):
        torch.manual_seed(0)
        stack = [make() for _ in range(2)]
        x = torch.randn(1, tokens, hidden, dtype=BF16, device="cuda", requires_grad=True)
        angle = torch.rand(tokens, d, device="cuda")
        cos, sin = angle.cos().to(BF16), angle.sin().to(BF16)
        gradient = torch.randn_like(x)

        def forward():
            y = x
            for layer in stack:
                y = layer(y, cos, sin)
            return y

        for _ in range(5):
            forward().backward(gradient)
        began, middle, ended = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        times = {"forward": [], "backward": []}
        for _ in range(20):
            torch.cuda.synchronize()
            began.record()
            y = forward()
            middle.record()
            y.backward(gradient)
            ended.record()
            torch.cuda.synchronize()
            times["forward"].append(began.elapsed_time(middle))
            times["backward"].append(middle.elapsed_time(ended))
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as p:
            forward().backward(gradient)
            torch.cuda.synchronize()
        busy = sum(e.self_device_time_total for e in p.key_averages()) / 2
        kernels = sum(e.count for e in p.key_averages() if e.self_device_time_total > 0) / 2
        for part, ms in times.items():
            add(section="sized", kind=name, part=part, us=round(sorted(ms)[10] * 1e3 / 2, 1))
        add(section="sized", kind=name, part="kernels, both", us=round(busy, 1), kernels=kernels)
        for e in sorted(p.key_averages(), key=lambda e: -e.self_device_time_total)[:14]:
            add(section="kernel", kind=name, name=e.key[:90], us=round(e.self_device_time_total / 2, 1), count=e.count / 2)
    out.close()


if __name__ == "__main__":
    main()
