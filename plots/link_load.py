#!/usr/bin/env python3
"""Draws how busy the links of ranks are over a step, from `rehearse simulate --link-load`."""
import argparse
import json
import sys

from picture import add_arguments, save

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit("link_load.py: matplotlib is not installed (package python3-matplotlib)")

KINDS = (
    ("network_out", "network_bytes_per_s", "network out", "#2f75b5"),
    ("network_in", "network_bytes_per_s", "network in", "#7fb3e6"),
    ("node_out", "node_bytes_per_s", "NVLink out", "#d9741a"),
    ("node_in", "node_bytes_per_s", "NVLink in", "#f4b183"),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("load")
    parser.add_argument("--ranks", type=int, default=4, help="draw the first so many of the file")
    parser.add_argument("--merge", type=int, default=25, help="bins of the file per step of the curve")
    add_arguments(parser, "link-load.png")
    args = parser.parse_args()
    with open(args.load) as f:
        load = json.load(f)
    ranks = sorted(load["bytes"], key=int)[: args.ranks]
    figure, rows = plt.subplots(len(ranks), 1, figsize=(13, 0.8 + 1.5 * len(ranks)), sharex=True, squeeze=False)
    for axes, rank in zip(rows[:, 0], ranks):
        for kind, rate, name, colour in KINDS:
            if load[rate] is None:
                continue
            bins = load["bytes"][rank][kind]
            merged = [sum(bins[i : i + args.merge]) for i in range(0, len(bins), args.merge)]
            full = load[rate] * load["bin_s"] * args.merge
            x = [i * args.merge * load["bin_s"] for i in range(len(merged))]
            axes.plot(x, [100 * b / full for b in merged], drawstyle="steps-post", c=colour, lw=0.9, label=name)
        axes.set_ylim(0, 105)
        axes.set_ylabel(f"rank {rank}\nload [%]", fontsize=8)
    rows[0, 0].legend(loc="upper right", ncol=4, fontsize=8)
    rows[-1, 0].set_xlabel("time in the step [s]")
    figure.tight_layout()
    save(figure, args.out, args.format, dpi=130)


if __name__ == "__main__":
    main()
