#!/usr/bin/python3
"""FP8's first steps in several layouts, beside what another order of sums alone makes of them.

layouts.py TEXT [--steps 10] [--precision fp8]: the same plan on one rank, again (the same bits), with other kernels of
the BLAS, which sum in another order and change nothing else (OPENBLAS_CORETYPE), and in other layouts. Prints the
largest relative difference of the loss to the first run's up to each step.
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORES = ["Haswell", "Zen", "Sandybridge", "Nehalem", "Prescott", "SkylakeX"]
LAYOUTS = ["{pp: 2}", "{pp: 2, schedule: zb1p}", "{pp: 2, schedule: dualpipe}", "{dp: 2}", "{dp: 2, ep: 2}", "{dp: 4, ep: 4}",
           "{pp: 2, dp: 2, ep: 2, schedule: dualpipe}"]
BATCH = 8  # micro-batches of all ranks


def ranks(layout, key):
    return int(layout.split(f"{key}:")[1].split(",")[0].strip(" }")) if f"{key}:" in layout and key != "pp" else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--precision", default="fp8")
    parser.add_argument("--model", default="tiny-v3")
    parser.add_argument("--rehearse", default=str(ROOT / "build/rehearse"))
    args = parser.parse_args()

    def losses(layout, core):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            micro_batches = BATCH // ranks(layout, " dp" if " dp" in layout else "{dp")
            (folder / "plan.yaml").write_text(
                f"model: {args.model}\ncluster: localhost.yaml\nlayout: {layout}\n"
                f"training: {{micro_batches: {micro_batches}, micro_batch_size: 2, sequence_length: 128, "
                f"steps: {args.steps}, precision: {args.precision}, learning_rate: 3e-3, warmup_steps: 5, "
                "recompute: [norms, up_projections, activations]}\ndata: {validation_fraction: 0}\n")
            environment = dict(os.environ)
            if core:
                environment["OPENBLAS_CORETYPE"] = core
            done = subprocess.run([args.rehearse, "train", folder / "plan.yaml", "--data", args.text.resolve(), "-q",
                                   "--out", folder / "run"], stdout=subprocess.DEVNULL, env=environment)
            if done.returncode != 0:
                return None  # kernels that this processor does not have
            return [json.loads(line)["loss"] for line in (folder / "run/log.jsonl").open()]

    first = losses("{dp: 1}", CORES[0])
    print("| run | " + " | ".join(f"step {i + 1}" for i in range(args.steps)) + " |\n|" + "---|" * (args.steps + 1))

    def row(name, layout, core):
        own = losses(layout, core)
        if own is None:
            return None
        found = [abs(a - b) / b for a, b in zip(own, first)]
        print(f"| {name} | " + " | ".join(f"{d:.1e}" for d in found) + " |", flush=True)
        return found

    again = row("again", "{dp: 1}", CORES[0])
    orders = [r for c in CORES[1:] if (r := row(f"sums as {c}", "{dp: 1}", c))]
    spread = [max(r[i] for r in orders) for i in range(args.steps)]
    worst = 0.0
    for layout in LAYOUTS:
        found = row(layout, layout, CORES[0])
        worst = max(worst, max(found))
    print(f"\nthe same layout gives {'the same bits' if not any(again) else 'OTHER BITS'}; largest difference in "
          f"{args.steps} steps: by another order of sums {max(spread):.1e}, by another layout {worst:.1e}")


main()
