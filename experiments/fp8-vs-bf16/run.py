#!/usr/bin/python3
"""FP8 beside BF16: the same training from several seeds, and what a change of layout alone makes of BF16.

run.py TEXT [--seeds 5] [--steps 1000] [--model tiny-v3] [--jobs 2] [--also KIND]: of each seed three runs: BF16, BF16
in another layout (which sums in another order), FP8; and those of --also. A row per run is appended to runs.csv when it
ends; runs that have a row are not made again, so that an interrupted experiment goes on where it was. Then prints the
differences and draws losses.svg. --report: that alone.
"""
import argparse
import concurrent.futures
import csv
import json
import math
import os
import pathlib
import statistics
import subprocess
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
LAYOUTS = {"one": "{dp: 1}", "two": "{dp: 2, ep: 2}"}
# What is compared: precision, layout and what the plan says of FP8.
KINDS = {"bf16": ("bf16", "one", ""), "bf16-other-layout": ("bf16", "two", ""), "fp8": ("fp8", "one", "")}
# Runs that --also makes, each beside BF16 of its seed.
ALSO = {"fp8-block-gradients": ("fp8", "one", "fp8: {gradient_tiles: 128x128}\n"),
        "fp8-bf16-caches": ("fp8", "one", "fp8: {swiglu_cache: bf16, attention_cache: bf16}\n"),
        "fp8-power-of-two": ("fp8", "one", "fp8: {scales: power_of_two}\n")}
FIELDS = ["model", "steps", "tokens_per_step", "seed", "kind", "validation_tokens", "validation_loss", "last_100",
          "cpu_seconds"]
PLAN = """model: {model}
cluster: {cluster}
layout: {layout}
training:
  micro_batches: {micro_batches}
  micro_batch_size: {size}
  sequence_length: {length}
  steps: {steps}
  seed: {seed}
  precision: {precision}
  moments: bf16
  recompute: [norms, up_projections, activations]
  learning_rate: 3e-3
  warmup_steps: {warmup}
  bias_update_speed: 0.01
data: {{validation_fraction: 0.02}}
"""
# Student's t, 95th percentile (both sides together 90%), by degrees of freedom.
T95 = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833, 11: 1.796, 14: 1.761,
       19: 1.729, 29: 1.699}


def t95(freedom):
    return T95.get(freedom) or T95[max(k for k in T95 if k <= freedom)]


def rows_of(path):
    if not path.exists():
        return []
    with path.open() as f:
        return list(csv.DictReader(f))


def train(args, seed, kind):
    precision, layout, choices = {**KINDS, **ALSO}[kind]
    ranks = 2 if layout == "two" else 1
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        plan = folder / "plan.yaml"
        plan.write_text(PLAN.format(model=args.model, cluster=args.cluster, layout=LAYOUTS[layout], micro_batches=args.batch // args.size // ranks,
                                    size=args.size, length=args.length, steps=args.steps, seed=seed,
                                    precision=precision, warmup=max(1, args.steps // 20)) + choices)
        process = subprocess.Popen([args.rehearse, "train", plan, "--data", args.text.resolve(), "--out", folder / "run",
                                    "--validation-tokens", str(args.validation_tokens), "-q"],
                                   stdout=subprocess.DEVNULL, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise SystemExit(f"seed {seed}, {kind}: exit status {status}")
        log = [json.loads(line) for line in (folder / "run/log.jsonl").open()]
    batch = args.batch * args.length
    return {"model": args.model, "steps": args.steps, "tokens_per_step": batch, "seed": seed, "kind": kind,
            "validation_tokens": math.ceil(args.validation_tokens / batch) * batch,
            "validation_loss": f"{log[-1]['validation_loss']:.6f}",
            "last_100": f"{statistics.mean(s['loss'] for s in log[-100:]):.6f}",
            "cpu_seconds": f"{usage.ru_utime + usage.ru_stime:.1f}"}


def interval(values):
    """Mean and half of the 90% interval of it."""
    half = t95(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def report(rows, picture):
    seeds = sorted({int(r["seed"]) for r in rows})
    loss = {(int(r["seed"]), r["kind"]): float(r["validation_loss"]) for r in rows}
    seeds = [s for s in seeds if all((s, k) in loss for k in KINDS)]
    print("| seed | BF16 | BF16, other layout | FP8 | other layout - BF16 | FP8 - BF16 |\n|---|---|---|---|---|---|")
    for s in seeds:
        a, b, c = (loss[s, k] for k in KINDS)
        print(f"| {s} | {a:.4f} | {b:.4f} | {c:.4f} | {b - a:+.4f} | {c - a:+.4f} |")
    if len(seeds) < 2:
        return
    null = [loss[s, "bf16-other-layout"] - loss[s, "bf16"] for s in seeds]
    fp8 = [loss[s, "fp8"] - loss[s, "bf16"] for s in seeds]
    level = statistics.mean(loss[s, "bf16"] for s in seeds)
    null_mean, half = interval(null)
    mean, own_half = interval(fp8)
    print(f"\n{len(seeds)} pairs; mean loss of BF16 {level:.4f} nats a token")
    print(f"layout alone: mean {null_mean:+.5f}, 90% interval {null_mean - half:+.5f} to {null_mean + half:+.5f}")
    print(f"FP8:          mean {mean:+.5f}, its own 90% interval {mean - own_half:+.5f} to {mean + own_half:+.5f}")
    print(f"FP8's mean lies {'within' if abs(mean - null_mean) <= half else 'OUTSIDE'} the interval of layout alone; the "
          f"smallest difference that would have been seen: {half:.5f} nats, {half / level:.2%} of the loss")
    if half / level < 0.0025:
        print(f"the interval is narrower than 0.25%: FP8 - BF16 is {mean / level:+.3%}")
    else:
        spread = statistics.stdev(null)
        pairs = len(seeds)
        while t95(pairs - 1) * spread / math.sqrt(pairs) / level >= 0.0025:
            pairs += 1
        print(f"0.25% would be seen from {pairs} pairs on, at this size and length")
    if picture:
        draw(seeds, loss)


def report_also(rows):
    loss = {(int(r["seed"]), r["kind"]): float(r["validation_loss"]) for r in rows}
    for kind in ALSO:
        seeds = sorted(s for s, k in loss if k == kind and (s, "bf16") in loss and (s, "fp8") in loss)
        if len(seeds) < 2:
            continue
        mean, half = interval([loss[s, kind] - loss[s, "bf16"] for s in seeds])
        from_fp8, other = interval([loss[s, kind] - loss[s, "fp8"] for s in seeds])
        print(f"{kind}, {len(seeds)} pairs: {mean:+.5f} +- {half:.5f} to BF16, {from_fp8:+.5f} +- {other:.5f} to FP8 "
              "(90% of the mean)")


def draw(seeds, loss):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rehearse"
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(figsize=(6, 2.6))
    for y, (kind, label) in enumerate([("bf16-other-layout", "BF16, another layout"), ("fp8", "FP8")]):
        values = [loss[s, kind] - loss[s, "bf16"] for s in seeds]
        mean, half = interval(values)
        axes.errorbar([mean], [y], xerr=[half], fmt="o", color="black", capsize=4)
        axes.plot(values, [y + 0.15] * len(values), "|", color="tab:blue" if y == 0 else "tab:red", markersize=10)
    axes.axvline(0, color="grey", linewidth=0.5)
    axes.set_yticks([0, 1], ["BF16,\nanother layout", "FP8"])
    axes.set_ylim(-0.5, 1.6)
    axes.set_xlabel("validation loss less BF16's of the same seed, nats a token; mean and its 90% interval")
    figure.tight_layout()
    figure.savefig(HERE / "losses.svg", metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", type=pathlib.Path, nargs="?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--model", default="tiny-v3")
    parser.add_argument("--cluster", default="localhost")
    parser.add_argument("--batch", type=int, default=8, help="sequences")
    parser.add_argument("--size", type=int, default=4, help="sequences of a micro-batch")
    parser.add_argument("--length", type=int, default=128, help="tokens of a sequence")
    parser.add_argument("--validation-tokens", type=int, default=200_000)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--rehearse", default=str(ROOT / "build/rehearse"))
    parser.add_argument("--runs", type=pathlib.Path, default=HERE / "runs.csv")
    parser.add_argument("--also", action="append", default=[], choices=ALSO)
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--print", action="store_true", help="no picture")
    args = parser.parse_args()
    of = {"model": args.model, "steps": str(args.steps), "tokens_per_step": str(args.batch * args.length)}
    if not args.report:
        if args.text is None:
            parser.error("a TEXT to train on (text.sh makes one)")
        done = {(int(r["seed"]), r["kind"]) for r in rows_of(args.runs) if all(r[k] == v for k, v in of.items())}
        wanted = [(s, k) for s in range(1, args.seeds + 1) for k in [*KINDS, *args.also] if (s, k) not in done]
        lock = threading.Lock()

        def one(task):
            row = train(args, *task)
            with lock:
                new = not args.runs.exists()
                with args.runs.open("a", newline="") as f:
                    writer = csv.DictWriter(f, FIELDS)
                    if new:
                        writer.writeheader()
                    writer.writerow(row)
                print(f"seed {row['seed']} {row['kind']}: validation {row['validation_loss']}, "
                      f"{row['cpu_seconds']} CPU s", flush=True)

        with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(one, wanted))
    rows = [r for r in rows_of(args.runs) if all(r[k] == v for k, v in of.items())]
    report(rows, not args.print)
    report_also(rows)


main()
