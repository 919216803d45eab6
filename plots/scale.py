#!/usr/bin/env python3
"""Draws exposed all-to-all and bubble, as shares of the step, of several results (of --json): a group of
bars per NAME=FILE."""
import argparse
import json
import sys

from picture import add_arguments, save

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit("scale.py: matplotlib is not installed (package python3-matplotlib)")

PARTS = (
    ("exposed_comm_fraction", "exposed all-to-all", "#8e63a8"),
    ("bubble_fraction", "bubble", "#bbbbbb"),
    ("exchange_wait_fraction", "waiting in all-to-alls, hidden or not", "#e6c84b"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="+")
    add_arguments(parser, "scale.png")
    args = parser.parse_args()
    names, values = [], []
    for given in args.results:
        name, _, path = given.partition("=")
        with open(path) as f:
            result = json.load(f)
        names.append(name.replace(", ", "\n").replace(" ", "\n", 1))
        values.append([100 * result[key] for key, _, _ in PARTS])
    figure, axes = plt.subplots(figsize=(1.5 + 1.2 * len(names), 3.6))
    for p, (_, label, colour) in enumerate(PARTS):
        axes.bar([i + 0.27 * (p - 1) for i in range(len(names))], [v[p] for v in values], 0.25, color=colour, label=label)
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_ylabel("share of the step [%]")
    axes.legend(fontsize=8)
    figure.tight_layout()
    save(figure, args.out, args.format, dpi=130)


if __name__ == "__main__":
    main()
