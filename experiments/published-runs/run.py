#!/usr/bin/env python3
"""Predicts published training runs and puts the errors beside them, as they come.

    python3 experiments/published-runs/run.py [--json FILE] [--only used|judged] [NAME ...]

Reads runs.json (every run with its source), writes a plan for each into out/published-runs, calls
build/rehearse simulate, and prints a table. Nothing is fitted to a run; runs marked "judged" were
never looked at for a change.
"""

import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")

CLUSTERS = {"a100": "a100-1024.yaml", "h100": "h100-1024.yaml", "h800": "h800-2048.yaml"}


def gpt(name, hidden, heads, layers, vocabulary=51200, positions=2048):
    return f"""name: {name}
vocabulary: {vocabulary}
hidden: {hidden}
layers: {layers}
dense_layers: {layers}
norm: layer
mtp_depth: 0
tied_embeddings: true
positions: {positions}
dropout: 0.1
attention: {{kind: grouped, heads: {heads}, head_dim: {hidden // heads}, qkv_bias: true, output_bias: true}}
mlp: {{kind: gelu, bias: true, dense_intermediate: {4 * hidden}}}
"""


def plan_of(run, out):
    """Writes the run's plan, its model and its cluster into the folder `out`; returns the plan's path."""
    base = os.path.join(out, run["name"])
    model = run["model"]
    if isinstance(model, dict):
        with open(base + ".model.yaml", "w") as f:
            # A GPT by its sizes, or a whole architecture (JSON is YAML).
            f.write(json.dumps(model) if "attention" in model else gpt(run["name"], **model))
        model = os.path.basename(base) + ".model.yaml"
    # As many nodes as the run has.
    with open(os.path.join(ROOT, "topologies", CLUSTERS[run["device"]])) as f:
        cluster = f.read()
    lines = []
    for line in cluster.split("\n"):
        if line.startswith("nodes:"):
            line = f"nodes: {max(1, -(-run['gpus'] // 8))}"
        lines.append(line)
    text = "\n".join(lines)
    for was, becomes in run.get("cluster", {}).items():
        assert was in text, f"{run['name']}: no '{was}' in its cluster"
        text = text.replace(was, becomes)
    with open(base + ".cluster.yaml", "w") as f:
        f.write(text)
    layout = dict(run["layout"])
    ranks = layout.get("pp", 1) * layout.get("tp", 1) * layout.get("cp", 1)
    assert run["gpus"] % ranks == 0, run["name"]
    layout["dp"] = run["gpus"] // ranks
    training = dict(run["training"])
    size = training["micro_batch_size"]
    assert run["batch"] % (size * layout["dp"]) == 0, run["name"]
    training["micro_batches"] = run["batch"] // (size * layout["dp"])
    plan = {
        "model": model,
        "cluster": os.path.basename(base) + ".cluster.yaml",
        "layout": layout,
        "training": training,
    }
    with open(base + ".yaml", "w") as f:
        json.dump(plan, f, indent=1)  # JSON is YAML
    return base + ".yaml"


def measured_step(run, j):
    """Seconds of the published step: stated, or from tokens per second, or from a rate of flops."""
    m = run["measured"]
    tokens = run["batch"] * run["training"]["sequence_length"]
    if "step_s" in m:
        return m["step_s"]
    if "tokens_per_s_per_gpu" in m:
        return tokens / m["tokens_per_s_per_gpu"] / run["gpus"]
    if "tflops" in m:
        if "step_flops" in m:
            return m["step_flops"] / (m["tflops"] * 1e12 * run["gpus"])
        rate = j["tflops_per_gpu_" + m["attention"]]
        return j["step_time_s"] * rate / m["tflops"]
    raise ValueError(run["name"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--json")
    parser.add_argument("--only", choices=["used", "judged"])
    options = parser.parse_args()
    with open(os.path.join(HERE, "runs.json")) as f:
        runs = json.load(f)
    out = os.environ.get("OUT", os.path.join(ROOT, "out", "published-runs"))
    os.makedirs(out, exist_ok=True)
    rows = []
    for run in runs:
        if options.names and run["name"] not in options.names:
            continue
        if options.only and run["role"] != options.only:
            continue
        plan = plan_of(run, out)
        command = [os.path.join(ROOT, "build", "rehearse"), "simulate", plan, "--json", "--fold"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            print(f"{run['name']}: {done.stderr.strip()}", file=sys.stderr)
            continue
        j = json.loads(done.stdout)
        with open(os.path.join(out, run["name"] + ".json"), "w") as f:
            f.write(done.stdout)
        step = measured_step(run, j)
        low, high = j["interval_s"]
        rows.append(
            {
                "name": run["name"],
                "role": run["role"],
                "kind": run["kind"] + " " + run["device"],
                "gpus": run["gpus"],
                "measured_s": step,
                "predicted_s": j["step_time_s"],
                "low_s": low,
                "high_s": high,
                "error": j["step_time_s"] / step - 1,
                "held": low <= step <= high,
            }
        )
    print(f"{'run':28} {'role':7} {'GPUs':>6} {'published':>10} {'predicted':>10} {'90%':>19} {'error':>7}")
    for r in rows:
        interval = f"{r['low_s']:.3f} to {r['high_s']:.3f}"
        print(
            f"{r['name']:28} {r['role']:7} {r['gpus']:6} {r['measured_s']:9.3f}s {r['predicted_s']:9.3f}s "
            f"{interval:>19} {100 * r['error']:+6.1f}%{'' if r['held'] else ' *'}"
        )
    for label in ["used", "judged"] + sorted({r["kind"] for r in rows}):
        of = [r for r in rows if label in (r["role"], r["kind"])]
        if not of:
            continue
        mean = sum(abs(r["error"]) for r in of) / len(of)
        bias = sum(r["error"] for r in of) / len(of)
        held = sum(r["held"] for r in of)
        print(f"{label:14} {len(of):3} runs: mean absolute error {100 * mean:.1f}%, bias {100 * bias:+.1f}%, "
              f"{held} of {len(of)} within the interval")
    print("* outside the interval")
    if options.json:
        with open(options.json, "w") as f:
            json.dump(rows, f, indent=1)


if __name__ == "__main__":
    main()
