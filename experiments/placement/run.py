#!/usr/bin/env python3
"""Placements of experts and replicas, judged by the step's time.

run.py TRACE... [--program PATH] [--out FOLDER]. Traces: of models/tiny-v3.yaml (`train --record-routing`),
replayed on four emulated nodes at EP4; then one drawn with a skew of 1 for DeepSeek-V3's layers on 64
H800 at EP64, which needs h5py (python3-h5py). Redundant experts: 4 of 16, 64 of 256. Prints steps over
that of experts in order.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
WAYS = [("in order", []), ("published", ["--policy", "published"]), ("ours, hierarchical", ["--policy", "hierarchical"]),
        ("ours, global", ["--policy", "global"]), ("best", ["--policy", "best"]),
        ("best, tokens solved", ["--policy", "best", "--replicas", "solved"])]


def skewed(path):
    sys.path.insert(0, str(ROOT / "plots"))
    import routing_trace

    routing_trace.write(path, routing_trace.drawn(1, 8, 4, 4096), 256)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("traces", nargs="*", type=pathlib.Path)
    parser.add_argument("--program", default=ROOT / "build/rehearse")
    parser.add_argument("--out", default=ROOT / "out/placement", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "tiny.yaml").write_text(
        f"model: {ROOT}/models/tiny-v3.yaml\ncluster: {ROOT}/topologies/emulated-4x1.yaml\nlayout: {{dp: 4, ep: 4}}\n"
        "training: {micro_batches: 2, micro_batch_size: 2, sequence_length: 128}\n")
    v3 = (ROOT / "models/deepseek-v3.yaml").read_text()
    for key, value in (("layers", 5), ("dense_layers", 1)):
        v3 = re.sub(rf"(?m)^{key}:.*$", f"{key}: {value}", v3)
    v3 = re.sub(r"(?m)^(\s*)mtp_depth:.*$", r"\1mtp_depth: 0", v3)
    (args.out / "model.yaml").write_text(v3)
    (args.out / "v3.yaml").write_text(
        f"model: model.yaml\ncluster: {ROOT}/topologies/h800-2048.yaml\nlayout: {{dp: 64, ep: 64}}\n"
        "training: {micro_batches: 4, micro_batch_size: 1, sequence_length: 4096, precision: fp8}\n")
    skewed(args.out / "skewed.h5")
    print("| trace | " + " | ".join(name for name, _ in WAYS) + " |\n" + "|---" * (len(WAYS) + 1) + "|")
    for trace, plan, redundant in [*((t, "tiny.yaml", 4) for t in args.traces),
                                   (args.out / "skewed.h5", "v3.yaml", 64)]:
        row = []
        for _, options in WAYS:
            more = ["--redundant", str(redundant)] if options else []
            out = subprocess.run([args.program, "replay", trace, args.out / plan, *options, *more, "--json",
                                  "--simulate", "3"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
            result = json.loads(out)
            ranks = [layer["rank_load_max_over_mean"] for layer in result["layers"]]
            row.append((result["step_time_s"], sum(ranks) / len(ranks)))
        name = trace.parent.name if trace.name == "routing.h5" else trace.stem
        print(f"| {name} | " + " | ".join(f"{t / row[0][0]:.3f} ({r:.2f})" for t, r in row) + " |", flush=True)


if __name__ == "__main__":
    main()
