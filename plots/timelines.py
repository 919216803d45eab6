#!/usr/bin/env python3
"""Draws timelines (of rehearse simulate and train), one above the other: ranks over time."""
import argparse
import json
import sys

from picture import add_arguments, save

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.collections import PolyCollection
    from matplotlib.patches import Patch
except ImportError:
    sys.exit("timelines.py: matplotlib is not installed (package python3-matplotlib)")

COLOURS = {
    "attn.F": "#7fb3e6",
    "mlp.F": "#2f75b5",
    "attn.B": "#f4b183",
    "mlp.B": "#d9741a",
    "attn.W": "#b5d99c",
    "mlp.W": "#6aa84f",
    "dispatch": "#c27ba0",
    "combine": "#8e63a8",
    "head": "#999999",
    "embed": "#bbbbbb",
    "send": "#e6c84b",
    "recv": "#e6c84b",
    "grad_reduce": "#a64d4d",
    "param_gather": "#cc8080",
    "optimizer": "#555555",
}
# Of a rank's row: the compute lane, and all others.
COMPUTE, OTHERS = 0.5, 0.3


def colour(category):
    return COLOURS.get(category) or COLOURS.get(category.split(".")[0], "#dddddd")


def draw(axes, path, ranks):
    with sys.stdin if path == "-" else open(path) as f:
        trace = json.load(f)
    events = [e for e in trace["traceEvents"] if e["ph"] == "X" and e["pid"] < ranks]
    boxes, colours, used = [], [], set()
    for e in events:
        top = e["pid"] if e["tid"] == 0 else e["pid"] + 0.55
        height = COMPUTE if e["tid"] == 0 else OTHERS
        begin, end = e["ts"] / 1e3, (e["ts"] + e["dur"]) / 1e3
        boxes.append([(begin, top), (end, top), (end, top + height), (begin, top + height)])
        colours.append(colour(e["cat"]))
        used.add(e["cat"])
    axes.add_collection(PolyCollection(boxes, facecolors=colours, linewidths=0))
    last = max((e["ts"] + e["dur"]) / 1e3 for e in trace["traceEvents"] if e["ph"] == "X")
    count = 1 + max(e["pid"] for e in events)
    axes.set_ylim(count, -0.1)
    axes.set_yticks([r + 0.4 for r in range(count)], [f"rank {r}" for r in range(count)])
    axes.axvline(last, c="k", lw=0.8)
    axes.set_title(f"{trace['otherData']['source']}: {last:.1f} ms", loc="left", fontsize=10)
    return last, used


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("timelines", nargs="+", help="timeline files; - is standard input")
    parser.add_argument("--ranks", type=int, default=8, help="draw the first so many ranks")
    add_arguments(parser, "timelines.png")
    args = parser.parse_args()
    figure, rows = plt.subplots(
        len(args.timelines), 1, figsize=(12, 1 + 2.4 * len(args.timelines)), sharex=True, squeeze=False
    )
    last, used = 0, set()
    for axes, path in zip(rows[:, 0], args.timelines):
        end, categories = draw(axes, path, args.ranks)
        last, used = max(last, end), used | categories
    rows[-1, 0].set_xlim(0, last * 1.01)
    rows[-1, 0].set_xlabel("time in the step [ms]; upper half of a rank: computation, lower: communication")
    shown = [name for name in COLOURS if any(c == name or c.startswith(name + ".") for c in used)]
    figure.legend(
        handles=[Patch(color=COLOURS[name], label=name) for name in shown],
        loc="lower center",
        ncol=8,
        fontsize=8,
    )
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    save(figure, args.out, args.format, dpi=120)


if __name__ == "__main__":
    main()
