#!/usr/bin/env python3
"""Draws a training log (log.jsonl): losses, gradient norm and rate, expert load, speed, as PNG."""
import argparse
import json
import sys

from picture import add_arguments, save

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
    add_arguments(parser, "loss.png")
    args = parser.parse_args()
    with open(args.log) as f:
        steps = [json.loads(line) for line in f]
    at = [s["step"] for s in steps]
    figure, (loss, norm, load, speed) = plt.subplots(
        4, 1, figsize=(7, 9), sharex=True, height_ratios=[3, 1, 1, 1]
    )

    def draw(axes, key, **how):
        values = [s.get(key) for s in steps]
        axes.plot(at, values, lw=1, **how)

    draw(loss, "loss", label="training")
    for module in range(len(steps[0].get("mtp_loss", []))):
        loss.plot(at, [s["mtp_loss"][module] for s in steps], lw=1, label=f"MTP {module + 1}")
    checked = [s for s in steps if "validation_loss" in s]
    loss.plot(
        [s["step"] for s in checked],
        [s["validation_loss"] for s in checked],
        "o-",
        label="validation",
    )
    if args.bigram:
        loss.axhline(args.bigram, ls="--", c="grey", label="bigram baseline")
    loss.set_ylabel("loss [nats per token]")
    loss.legend()
    draw(norm, "gradient_norm")
    norm.set_yscale("log")
    norm.set_ylabel("gradient norm")
    rate = norm.twinx()
    draw(rate, "learning_rate", c="tab:orange")
    rate.set_ylabel("learning rate", c="tab:orange")
    draw(load, "max_expert_load", label="largest")
    for share in (50, 99):
        worst = [max(s.get(f"expert_load_p{share}") or [0]) for s in steps]
        load.plot(at, worst, lw=1, label=f"p{share}, worst layer")
    load.set_ylabel("expert load\n/ mean")
    load.legend(fontsize="small")
    draw(speed, "tokens_per_s")
    speed.set_ylabel("tokens/s")
    speed.set_ylim(bottom=0)
    lost = speed.twinx()
    draw(lost, "exposed_comm_fraction", c="tab:orange", label="exposed communication")
    draw(lost, "bubble_fraction", c="tab:green", label="bubble")
    lost.set_ylim(0, 1)
    lost.legend(fontsize="small")
    speed.set_xlabel("step")
    for axes in (loss, norm, load, speed):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    save(figure, args.out, args.format, dpi=120)


if __name__ == "__main__":
    main()
