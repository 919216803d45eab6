#!/usr/bin/python3
"""Gradients of one batch in BF16, in FP8, and in FP8 with blocks of 128x128 for activations' gradients, beside FP32's.

run.py TEXT [--model tiny-v3] [--steps 200]: with first weights, and with those of a BF16 training of so many steps. Of
every parameter its cosine with FP32's gradient, the ratio of norms and the relative error; printed by part, and by
layer for the error; every parameter's stands in gradients.csv, the picture in gradients.svg.
"""
import argparse
import csv
import json
import math
import pathlib
import re
import struct
import subprocess
import tempfile

import numpy

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WAYS = {"fp32": ("fp32", ""), "bf16": ("bf16", ""), "fp8": ("fp8", ""),
        "fp8-blocks": ("fp8", "fp8: {gradient_tiles: 128x128}\n")}
PLAN = """model: {model}
cluster: localhost.yaml
layout: {{dp: 1}}
training: {{micro_batches: 2, micro_batch_size: 8, sequence_length: 128, steps: {steps}, precision: {precision},
  recompute: [norms, up_projections, activations], learning_rate: 3e-3, warmup_steps: 10, bias_update_speed: 0.01}}
"""


def tensors(path):
    with path.open("rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    return {name: numpy.frombuffer(data[slice(*t["data_offsets"])], numpy.float32).astype(numpy.float64)
            for name, t in header.items() if name != "__metadata__"}


def compare(name, exact, own):
    norm = numpy.linalg.norm(exact)
    if norm == 0:
        return None
    return {"cosine": float(exact @ own / norm / numpy.linalg.norm(own)),
            "norm": float(numpy.linalg.norm(own) / norm), "error": float(numpy.linalg.norm(own - exact) / norm)}


def part_of(name):
    for pattern, part in ((r"experts\.\d+", "experts"), ("shared_experts", "shared expert"), (r"mlp\.gate\.", "router"),
                          ("mlp", "dense FFN"), ("norm", "norms"), ("self_attn", "attention"), ("eh_proj", "MTP")):
        if re.search(pattern, name):
            return part
    return "ends"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--model", default="tiny-v3")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rehearse", default=str(ROOT / "build/rehearse"))
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def rehearse(precision, choices, *options):
            (folder / "plan.yaml").write_text(PLAN.format(model=args.model, steps=args.steps, precision=precision) + choices)
            subprocess.run([args.rehearse, "train", folder / "plan.yaml", "--data", args.text.resolve(), "-q", *options],
                           check=True, stdout=subprocess.DEVNULL)

        rehearse("bf16", "", "--out", folder / "run", "--checkpoint-every", str(args.steps))
        trained = folder / f"run/checkpoints/step-{args.steps:08d}"
        for weights, start in (("first", []), ("trained", ["--from", trained])):
            gradients = {}
            for way, (precision, choices) in WAYS.items():
                dump = folder / "gradients.safetensors"
                rehearse(precision, choices, "--steps", "0", *start, "--dump-gradients", dump)
                gradients[way] = tensors(dump)
            for name, exact in gradients["fp32"].items():
                for way in list(WAYS)[1:]:
                    found = compare(name, exact, gradients[way][name])
                    if found is not None:
                        rows.append({"weights": weights, "parameter": name, "way": way, **found})
    with (HERE / "gradients.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in r.items()} for r in rows)
    report(rows)


def mean(rows, key):
    return math.fsum(r[key] for r in rows) / len(rows)


def report(rows):
    ways = list(WAYS)[1:]
    for weights in ("first", "trained"):
        print(f"\n{weights} weights: mean cosine / worst cosine / mean norm to FP32's, over the parameters of a part")
        print("| part | parameters | " + " | ".join(ways) + " |\n|" + "---|" * (len(ways) + 2))
        of = [r for r in rows if r["weights"] == weights]
        for part in sorted({part_of(r["parameter"]) for r in of}):
            cells, count = [], 0
            for way in ways:
                some = [r for r in of if r["way"] == way and part_of(r["parameter"]) == part]
                count = len(some)
                cells.append(f"{mean(some, 'cosine'):.5f} / {min(r['cosine'] for r in some):.5f} / {mean(some, 'norm'):.4f}")
            print(f"| {part} | {count} | " + " | ".join(cells) + " |")
    print("\nrelative error of gradients by layer, mean over its matrices, trained weights")
    of = [r for r in rows if r["weights"] == "trained" and ".layers." in r["parameter"] and "norm" not in r["parameter"]]
    layers = sorted({int(r["parameter"].split(".")[2]) for r in of})
    errors = {way: [mean([r for r in of if r["way"] == way and int(r["parameter"].split(".")[2]) == layer], "error")
                    for layer in layers] for way in ways}
    print("| layer | " + " | ".join(ways) + " | blocks / rows |\n|" + "---|" * (len(ways) + 2))
    for i, layer in enumerate(layers):
        print(f"| {layer} | " + " | ".join(f"{errors[w][i]:.4f}" for w in ways)
              + f" | {errors['fp8-blocks'][i] / errors['fp8'][i]:.3f} |")
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rehearse"
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(figsize=(6, 3))
    for way, label in zip(ways, ("BF16", "FP8, 1x128", "FP8, 128x128")):
        axes.plot(layers, errors[way], "o-", label=label)
    axes.set_yscale("log")
    axes.set_xticks(layers)
    axes.set_xlabel("layer")
    axes.set_ylabel("error of gradients, relative")
    axes.legend()
    figure.tight_layout()
    figure.savefig(HERE / "gradients.svg", metadata={"Date": None})


main()
