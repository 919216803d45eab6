#!/usr/bin/env python3
"""Draws the loss curve of a training log (log.jsonl) as PNG."""
import argparse
import json
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    sys.exit("loss.py: matplotlib is not installed (package python3-matplotlib)")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", help="log.jsonl of rehearse train")
    parser.add_argument("--bigram", type=float, help="baseline to draw, nats per token")
    parser.add_argument("--out", default="loss.png")
    args = parser.parse_args()
    with open(args.log) as f:
        steps = [json.loads(line) for line in f]
    figure, (loss, load) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, height_ratios=[3, 1])
    loss.plot([s["step"] + 1 for s in steps], [s["loss"] for s in steps], label="training", lw=1)
    checked = [s for s in steps if "validation_loss" in s]
    loss.plot(
        [s["step"] + 1 for s in checked],
        [s["validation_loss"] for s in checked],
        "o-",
        label="validation",
    )
    if args.bigram:
        loss.axhline(args.bigram, ls="--", c="grey", label="bigram baseline")
    loss.set_ylabel("loss [nats per token]")
    loss.legend()
    loss.grid(alpha=0.3)
    load.plot([s["step"] + 1 for s in steps], [s["max_expert_load"] for s in steps], lw=1)
    load.set_ylabel("largest expert\nload / mean")
    load.set_xlabel("step")
    load.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(args.out, dpi=120)


if __name__ == "__main__":
    main()
