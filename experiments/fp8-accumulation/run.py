#!/usr/bin/python3
"""Errors of FP8 products by bits of the accumulator, interval between promotions to FP32, and length of the sum.

run.py [--program build/bench/fp8_accumulation]: writes errors.csv and errors.svg, prints the tables of the README.
"""
import argparse
import csv
import io
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--print", action="store_true", help="write nothing")
    parser.add_argument("--program", default=str(ROOT / "build/bench/fp8_accumulation"))
    args = parser.parse_args()
    text = subprocess.run([args.program], check=True, stdout=subprocess.PIPE, text=True).stdout
    if not args.print:
        (HERE / "errors.csv").write_text(text)
    rows = {(r["values"], int(r["k"]), int(r["bits"]), int(r["promotion"])): (float(r["rms"]), float(r["largest"]))
            for r in csv.DictReader(io.StringIO(text))}
    promotions = [32, 64, 128, 256, 512, 1024, 4096, 0]
    for values in ("one sign", "normal"):
        for metric, name in enumerate(("root mean square", "largest relative")):
            print(f"\n{values}, {name}, 13 bits:\n| K | " + " | ".join(f"every {p}" if p else "never" for p in promotions)
                  + " |\n|" + "---|" * (len(promotions) + 1))
            for k in sorted({key[1] for key in rows}):
                cells = [rows.get((values, k, 13, p)) for p in promotions]
                print(f"| {k} | " + " | ".join(f"{c[metric]:.3%}" if c else "" for c in cells) + " |")
    print("\npromotion every 128 over none, error reduced by (13 / 14 / 15 bits):\n| values | K | root mean square | largest |"
          "\n|---|---|---|---|")
    for values in ("one sign", "normal"):
        for k in (4096, 7168, 16384):
            ratios = [[rows[values, k, b, 0][m] / rows[values, k, b, 128][m] for b in (13, 14, 15)] for m in (0, 1)]
            print(f"| {values} | {k} | " + " | ".join(" / ".join(f"{r:.0f}" for r in of) for of in ratios) + " |")
    print("\nsettings without promotion whose error at K = 4096 is between 1.5% and 2.5%:")
    for (values, k, bits, promotion), errors in rows.items():
        for metric, name in enumerate(("root mean square", "largest relative")):
            if k == 4096 and promotion == 0 and 0.015 <= errors[metric] <= 0.025:
                print(f"  {values}, {bits} bits, {name}: {errors[metric]:.2%}")
    if not args.print:
        draw(rows)


def draw(rows):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rehearse"
    import matplotlib.pyplot as plt
    figure, both = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    for axes, values in zip(both, ("one sign", "normal")):
        for promotion in (0, 1024, 512, 256, 128, 32):
            points = [(k, e[0]) for (v, k, b, p), e in sorted(rows.items()) if v == values and b == 13 and p == promotion]
            axes.plot(*zip(*points), "o-", label=f"every {promotion}" if promotion else "never")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_title(f"values of {values}" if values == "one sign" else "normal values", fontsize=9)
        axes.set_xlabel("K")
    both[0].set_ylabel("error, root mean square")
    both[1].legend(title="promoted", fontsize=7, title_fontsize=7)
    figure.tight_layout()
    figure.savefig(HERE / "errors.svg", metadata={"Date": None})


main()
