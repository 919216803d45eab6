#!/usr/bin/env python3
"""Draws the pipeline: the cells of each rank in a timeline (of rehearse simulate or train) over time.
What is white is bubble."""
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
    sys.exit("pipeline.py: matplotlib is not installed (package python3-matplotlib)")

COLOURS = {"F": "#4a90d9", "B": "#e08a3c", "W": "#6aa84f", "F&B": "#8e63a8", "end of step": "#777777"}
# Of an op's category, by its end; what a cell is follows from the ops in it.
CELL_KINDS = ("attn", "mlp", "dispatch", "combine", "embed", "head", "mtp", "cell")


def cells_of(trace):
    """(rank, cell) -> [begin, end, passes], milliseconds; and the ops that end the step by rank."""
    cells, ends = {}, {}
    for e in trace["traceEvents"]:
        if e["ph"] != "X":
            continue
        kind, _, direction = e["cat"].partition(".")
        begin, end = e["ts"] / 1e3, (e["ts"] + e["dur"]) / 1e3
        if kind in CELL_KINDS:
            c = cells.setdefault((e["pid"], e["args"]["cell"]), [begin, end, set()])
            c[0], c[1] = min(c[0], begin), max(c[1], end)
            c[2].add(direction or "F&B")
        elif kind not in ("send", "recv"):
            c = ends.setdefault(e["pid"], [begin, end])
            c[0], c[1] = min(c[0], begin), max(c[1], end)
    return cells, ends


def kind_of(passes):
    if "F&B" in passes or ("F" in passes and "B" in passes):
        return "F&B"
    return "F" if "F" in passes else "B" if "B" in passes else "W"


def draw(axes, path):
    with open(path) as f:
        trace = json.load(f)
    cells, ends = cells_of(trace)
    ranks = sorted({rank for rank, _ in cells})
    row = {rank: i for i, rank in enumerate(ranks)}
    boxes, colours = [], []

    def add(rank, begin, end, kind, height):
        top = row[rank] + (1 - height) / 2
        boxes.append([(begin, top), (end, top), (end, top + height), (begin, top + height)])
        colours.append(COLOURS[kind])

    for (rank, _), (begin, end, passes) in sorted(cells.items()):
        add(rank, begin, end, kind_of(passes), 0.86)
    for rank, (begin, end) in ends.items():
        add(rank, begin, end, "end of step", 0.3)
    axes.add_collection(PolyCollection(boxes, facecolors=colours, edgecolors="white", linewidths=0.15))
    last = max(e["ts"] + e["dur"] for e in trace["traceEvents"] if e["ph"] == "X") / 1e3
    axes.set_ylim(len(ranks), 0)
    axes.set_yticks([i + 0.5 for i in range(len(ranks))], [str(r) for r in ranks], fontsize=7)
    axes.set_ylabel("rank")
    return last


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("timelines", nargs="+", help="timeline files; NAME=FILE gives one a title")
    parser.add_argument("--from", dest="begin", type=float, default=0, help="milliseconds")
    parser.add_argument("--to", dest="end", type=float, help="milliseconds")
    add_arguments(parser, "pipeline.png")
    args = parser.parse_args()
    n = len(args.timelines)
    figure, rows = plt.subplots(n, 1, figsize=(13, 0.8 + 2.3 * n), sharex=True, squeeze=False)
    last = 0
    for axes, given in zip(rows[:, 0], args.timelines):
        name, _, path = given.rpartition("=")
        end = draw(axes, path)
        axes.set_title(f"{name or path}: {end:.1f} ms", loc="left", fontsize=9)
        last = max(last, end)
    rows[-1, 0].set_xlim(args.begin, args.end or last * 1.005)
    rows[-1, 0].set_xlabel("time in the step [ms]; white: bubble")
    figure.legend(
        handles=[Patch(color=c, label=k) for k, c in COLOURS.items()], loc="lower right", ncol=5, fontsize=8
    )
    figure.tight_layout()
    save(figure, args.out, args.format, dpi=130)


if __name__ == "__main__":
    main()
