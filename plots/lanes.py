#!/usr/bin/env python3
"""Draws how busy the lanes of ranks are over a step, from a timeline (of rehearse simulate or train):
per rank the share of each stretch of time in which compute and all-to-all lanes have an op."""
import argparse
import json
import sys

from picture import add_arguments, save

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit("lanes.py: matplotlib is not installed (package python3-matplotlib)")

LANES = {0: ("compute", "#2f75b5"), 1: ("all-to-all", "#8e63a8")}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("timeline")
    parser.add_argument("--ranks", type=int, default=4, help="draw the first so many of the file")
    parser.add_argument("--bins", type=int, default=400)
    add_arguments(parser, "lanes.png")
    args = parser.parse_args()
    with open(args.timeline) as f:
        events = [e for e in json.load(f)["traceEvents"] if e["ph"] == "X"]
    last = max(e["ts"] + e["dur"] for e in events)
    ranks = sorted({e["pid"] for e in events})[: args.ranks]
    width = last / args.bins
    figure, rows = plt.subplots(len(ranks), 1, figsize=(13, 0.8 + 1.3 * len(ranks)), sharex=True, squeeze=False)
    for axes, rank in zip(rows[:, 0], ranks):
        for lane, (name, colour) in LANES.items():
            busy = [0.0] * args.bins
            for e in events:
                if e["pid"] != rank or e["tid"] != lane:
                    continue
                begin, end = e["ts"], e["ts"] + e["dur"]
                for b in range(int(begin / width), min(args.bins - 1, int(end / width)) + 1):
                    busy[b] += max(0.0, min(end, (b + 1) * width) - max(begin, b * width))
            x = [b * width / 1e3 for b in range(args.bins)]
            axes.plot(x, [100 * t / width for t in busy], drawstyle="steps-post", c=colour, lw=0.9, label=name)
        axes.set_ylim(0, 105)
        axes.set_ylabel(f"rank {rank}\nbusy [%]", fontsize=8)
    rows[0, 0].legend(loc="upper right", ncol=2, fontsize=8)
    rows[-1, 0].set_xlim(0, last / 1e3)
    rows[-1, 0].set_xlabel("time in the step [ms]")
    figure.tight_layout()
    save(figure, args.out, args.format, dpi=130)


if __name__ == "__main__":
    main()
