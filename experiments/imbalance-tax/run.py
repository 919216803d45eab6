#!/usr/bin/env python3
"""What imbalance costs as expert parallelism grows: DeepSeek-V3's layers on H800s, EP8 to EP256.

run.py [--skew X] [--program PATH] [--out FOLDER]. Needs h5py (python3-h5py). One trace, drawn with this
skew (standard deviation of the logarithm of experts' popularity; `replay --fit` reads it off a recorded
one), replayed at every EP; DP = EP, four layers with experts, four micro-batches.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "plots"))
import routing_trace  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--skew", type=float, default=0.3)
    parser.add_argument("--program", default=ROOT / "build/rehearse")
    parser.add_argument("--out", default=ROOT / "out/imbalance-tax", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    routing_trace.write(args.out / "trace.h5", routing_trace.drawn(args.skew, 16, 4, 4096), 256)
    v3 = (ROOT / "models/deepseek-v3.yaml").read_text()
    for key, value in (("layers", 5), ("dense_layers", 1)):
        v3 = re.sub(rf"(?m)^{key}:.*$", f"{key}: {value}", v3)
    (args.out / "model.yaml").write_text(re.sub(r"(?m)^(\s*)mtp_depth:.*$", r"\1mtp_depth: 0", v3))
    print("| EP | fullest rank / mean | busiest port / mean | step | balanced | lost | lost, best placement of +EP experts |")
    print("|---|---|---|---|---|---|---|")
    for ep in (8, 16, 32, 64, 128, 256):
        (args.out / "plan.yaml").write_text(
            f"model: model.yaml\ncluster: {ROOT}/topologies/h800-2048.yaml\nlayout: {{dp: {ep}, ep: {ep}}}\n"
            "training: {micro_batches: 4, micro_batch_size: 1, sequence_length: 4096, precision: fp8}\n")

        def replay(*more):
            run = [args.program, "replay", args.out / "trace.h5", args.out / "plan.yaml", "--json", *more]
            return json.loads(subprocess.run(run, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout)

        r = replay()
        best = replay("--policy", "best", "--redundant", str(ep))
        mean = lambda key: sum(layer[key] for layer in r["layers"]) / len(r["layers"])
        print(f"| {ep} | {mean('rank_load_max_over_mean'):.2f} | {mean('busiest_link_over_mean'):.2f} |"
              f" {r['step_time_s'] * 1e3:.1f} ms | {r['step_time_balanced_s'] * 1e3:.1f} ms |"
              f" {1 - r['step_time_balanced_s'] / r['step_time_s']:.1%} |"
              f" {1 - best['step_time_balanced_s'] / best['step_time_s']:.1%} |", flush=True)


if __name__ == "__main__":
    main()
