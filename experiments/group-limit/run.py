#!/usr/bin/env python3
"""InfiniBand under a group limit, and experts per node at no further cost, on 64 H800.

run.py [--program PATH] [--out FOLDER]. Needs h5py (python3-h5py). Two tables, all of `rehearse replay`:
DeepSeek-V3's layers with traces whose tokens choose 8 experts in at most G of 8 groups, a group per
node; and with 4 groups and more and more experts per token. Choices are drawn evenly.
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
    parser.add_argument("--program", default=ROOT / "build/rehearse")
    parser.add_argument("--out", default=ROOT / "out/group-limit", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    v3 = (ROOT / "models/deepseek-v3.yaml").read_text()

    def replay(active, kept):
        model = re.sub(r"(?m)^layers:.*$", "layers: 2", v3)
        model = re.sub(r"(?m)^(\s*)mtp_depth:.*$", r"\1mtp_depth: 0", model)
        model = re.sub(r"(?m)^dense_layers:.*$", "dense_layers: 1", model)
        model = re.sub(r"active_experts:.*", f"active_experts: {active}", model)
        model = re.sub(r"kept_groups:.*", f"kept_groups: {kept}", model)
        (args.out / "model.yaml").write_text(model)
        (args.out / "plan.yaml").write_text(
            f"model: model.yaml\ncluster: {ROOT}/topologies/h800-2048.yaml\nlayout: {{dp: 64, ep: 64}}\n"
            "training: {micro_batches: 1, micro_batch_size: 1, sequence_length: 4096, precision: fp8}\n")
        routing_trace.write(args.out / "trace.h5", routing_trace.drawn(0, 64, 1, 4096, kept=kept, active=active), 256)
        out = subprocess.run([args.program, "replay", args.out / "trace.h5", args.out / "plan.yaml",
                              "--simulate", "0", "--json"], check=True, stdout=subprocess.PIPE).stdout
        return json.loads(out)["layers"][0]

    print("| groups kept | nodes per token | IB per step | dispatch | combine |\n|---|---|---|---|---|")
    for kept in range(1, 9):
        r = replay(8, kept)
        print(f"| {kept} | {r['nodes_per_token']:.2f} | {r['ib_bytes'] * 1e-9:.2f} GB |"
              f" {r['dispatch_s'] * 1e6:.0f} us | {r['combine_s'] * 1e6:.0f} us |", flush=True)
    print("\n| experts per token, 4 groups | per node | IB per step | NVLink per step | dispatch |\n|---|---|---|---|---|")
    for active in (4, 8, 10, 12, 13, 14, 16, 20, 24):
        r = replay(active, 4)
        print(f"| {active} | {active / 4:.2f} | {r['ib_bytes'] * 1e-9:.2f} GB | {r['nvlink_bytes'] * 1e-9:.2f} GB |"
              f" {r['dispatch_s'] * 1e6:.0f} us |", flush=True)


if __name__ == "__main__":
    main()
