#!/usr/bin/env python3
"""Prints what experiments/deepseek-v3-budget/run.sh found, as Markdown tables, and draws how the step
responds. usage: budget.py FOLDER [--picture responses.png]"""
import argparse
import json
import os
import sys

from picture import save

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit("budget.py: matplotlib is not installed (package python3-matplotlib)")

RESPONSES = (
    ("as-planned", "as planned"),
    ("half-network", "half the InfiniBand bandwidth"),
    ("40-sms", "40 SMs for communication"),
    ("double-skew", "twice the routing skew (0.30)"),
    ("products-20-percent", "every GEMM +20%"),
    ("attention-20-percent", "attention core +20%"),
    ("casts-20-percent", "casts and transposes +20%"),
    ("data-20-percent", "all-to-all data beside computation +20%"),
    ("no-skew", "no expert preferred (skew 0)"),
    ("balanced", "all loads equal"),
    ("even-layers", "layers 3,3,4,...,4,3 (as even as it goes)"),
    ("last-stage-3", "layers 2,4,...,4,3"),
    ("last-stage-1", "layers 4,4,...,4,1"),
    ("zb1p", "ZB1P instead of DualPipe"),
)
PARTS = (("fb", "F&B"), ("f", "F"), ("b", "B"), ("w", "W"), ("bubble", "bubble"), ("optimizer", "optimizer"))


def load(folder, name):
    with open(os.path.join(folder, name + ".json")) as f:
        return json.load(f)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--picture")
    args = parser.parse_args()
    budget = load(args.folder, "budget")
    print("| | predicted | 90% |\n|---|---|---|")
    for key in ("gpu_hours_pretrain", "gpu_hours_total", "cost_usd", "days", "energy_mwh", "tokens_per_day"):
        low, high = budget[key + "_interval"]
        print(f"| {key} | {budget[key]:,.0f} | {low:,.0f} to {high:,.0f} |")
    for key in ("tflops_per_gpu_causal", "tflops_per_gpu_noncausal", "mfu_causal", "mfu_noncausal"):
        low, high = budget[key + "_interval"]
        print(f"| {key} | {budget[key]:.4g} | {low:.4g} to {high:.4g} |")
    print("\n| phase | step [s] | GPU-hours | days |\n|---|---|---|---|")
    for phase in budget["phases"]:
        steps = ", ".join(f"{t:.2f}" for t in phase["step_time_s"])
        print(f"| {phase['name']} | {steps} | {phase['gpu_hours']:,.0f} | {phase['days']:.2f} |")
    found = [(name, label, load(args.folder, name)) for name, label in RESPONSES]
    base = found[0][2]["step_time_s"]
    print("\n| | step [s] | change | K GPU-hours | bubble | exposed | waiting |\n|---|---|---|---|---|---|---|")
    for _, label, result in found:
        step = result["step_time_s"]
        print(
            f"| {label} | {step:.2f} | {100 * (step / base - 1):+.1f}% | {result['gpu_hours_pretrain'] / 1e3:,.0f} "
            f"| {100 * result['bubble_fraction']:.1f}% | {100 * result['exposed_comm_fraction']:.1f}% "
            f"| {100 * result['exchange_wait_fraction']:.1f}% |"
        )
    if not args.picture:
        return
    figure, axes = plt.subplots(figsize=(9, 4.2))
    bottom = [0.0] * len(found)
    for key, label in PARTS:
        values = [result["breakdown_mean_s"][key] for _, _, result in found]
        axes.barh([label for _, label, _ in found], values, left=bottom, label=label)
        bottom = [b + v for b, v in zip(bottom, values)]
    axes.invert_yaxis()
    axes.axvline(base, color="black", linewidth=0.8)
    axes.set_xlabel("seconds per step, mean over ranks")
    axes.legend(fontsize=8, ncol=6, loc="upper center", bbox_to_anchor=(0.35, -0.12))
    figure.tight_layout()
    save(figure, args.picture, dpi=120)


if __name__ == "__main__":
    main()
