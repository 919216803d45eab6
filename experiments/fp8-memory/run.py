#!/usr/bin/python3
"""What a rank holds under FP32, BF16 and FP8 on cores: told by the plan, and held.

run.py TEXT [--rehearse PATH]: trains four steps of each plan with forced balanced routing and puts the most activations
that any rank held beside what `inspect` says; the table as memory.csv, the picture as memory.svg.
"""
import argparse
import csv
import json
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PRECISIONS = ("fp32", "bf16", "fp8")
PLANS = {
    "tiny-v3, 1F1B": ("tiny-v3", "{dp: 1}", "micro_batches: 4, micro_batch_size: 4, sequence_length: 128"),
    "tiny-v3, ZB1P PP2": ("tiny-v3", "{pp: 2, schedule: zb1p}", "micro_batches: 4, micro_batch_size: 4, sequence_length: 128"),
    "tiny-v3, DualPipe PP2 DP2 EP2": ("tiny-v3", "{pp: 2, dp: 2, ep: 2, schedule: dualpipe}",
                                      "micro_batches: 4, micro_batch_size: 4, sequence_length: 128"),
    "v3-100m, 1F1B": ("v3-100m", "{dp: 1}", "micro_batches: 1, micro_batch_size: 2, sequence_length: 256"),
    "v3-100m, ZB1P PP2": ("v3-100m", "{pp: 2, schedule: zb1p}", "micro_batches: 2, micro_batch_size: 1, sequence_length: 256"),
    "v3-100m, EP4": ("v3-100m", "{dp: 4, ep: 4}", "micro_batches: 1, micro_batch_size: 1, sequence_length: 256"),
}
RECOMPUTE = "[norms, up_projections, activations]"


def measure(args, folder, model, layout, batch, precision):
    plan = folder / "plan.yaml"
    plan.write_text(f"model: {model}\ncluster: localhost.yaml\nlayout: {layout}\nrouting: balanced\n"
                    f"training: {{{batch}, steps: 4, precision: {precision}, recompute: {RECOMPUTE}}}\n"
                    "data: {validation_fraction: 0}\n")
    subprocess.run([args.rehearse, "train", plan, "--data", args.text.resolve(), "-q", "--force", "--out", folder / "run"],
                   check=True, stdout=subprocess.DEVNULL)
    held = max(json.loads(line)["activation_bytes"] for line in (folder / "run/log.jsonl").open())
    told = json.loads(subprocess.run([args.rehearse, "inspect", plan, "--json"], check=True,
                                     stdout=subprocess.PIPE).stdout)
    return max(r["memory_bytes"]["activations"] for r in told["ranks"]), held


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--rehearse", default=str(ROOT / "build/rehearse"))
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, layout, batch) in PLANS.items():
            for precision in PRECISIONS:
                told, held = measure(args, pathlib.Path(folder), model, layout, batch, precision)
                rows.append({"plan": name, "precision": precision, "told": told, "held": held})
    with (HERE / "memory.csv").open("w", newline="") as f:
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    print("| plan | precision | told, MB | held, MB | told / held | held / FP32's |\n|---|---|---|---|---|---|")
    of = {(r["plan"], r["precision"]): r for r in rows}
    for r in rows:
        print(f"| {r['plan']} | {r['precision']} | {r['told'] / 1e6:.2f} | {r['held'] / 1e6:.2f} | "
              f"{r['told'] / r['held']:.3f} | {r['held'] / of[r['plan'], 'fp32']['held']:.2f} |")
    draw(of)


def draw(of):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rehearse"
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(figsize=(7, 3))
    for i, precision in enumerate(PRECISIONS):
        shares = [of[plan, precision]["held"] / of[plan, "fp32"]["held"] for plan in PLANS]
        told = [of[plan, precision]["told"] / of[plan, "fp32"]["held"] for plan in PLANS]
        places = [p + 0.25 * (i - 1) for p in range(len(PLANS))]
        axes.bar(places, shares, 0.22, label=precision.upper())
        axes.plot(places, told, "k_", markersize=10)
    axes.set_xticks(range(len(PLANS)), [p.replace(", ", "\n") for p in PLANS], fontsize=7)
    axes.set_ylabel("activations held, of FP32's")
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE / "memory.svg", metadata={"Date": None})


main()
