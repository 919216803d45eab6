#!/usr/bin/env python3
"""Reads and writes rehearse's routing traces (HDF5), and draws one: load of experts by layer and over
time. Needs h5py (python3-h5py), and matplotlib to draw.

    from routing_trace import read, write
    trace = read("routing.h5")   # choices [steps, micro_batches, layers, tokens, active], ...
    write("mine.h5", choices, experts=256, model="mine")
"""
import argparse
import sys

try:
    import h5py
    import numpy as np
except ImportError as error:
    sys.exit(f"routing_trace.py: {error.name} is not installed (packages python3-h5py, python3-numpy)")


def read(path):
    """A dictionary: choices, weights or None, steps, experts, and the file's attributes."""
    with h5py.File(path) as f:
        choices = f["choices"]
        per_step = choices.attrs.get("micro_batches_per_step", choices.shape[0])
        shape = (-1, per_step, *choices.shape[1:])
        return {
            "choices": choices[()].reshape(shape),
            "weights": f["weights"][()].reshape(shape) if "weights" in f else None,
            "steps": f["steps"][()] if "steps" in f else np.arange(choices.shape[0] // per_step),
            "experts": int(choices.attrs["experts"]),
            "about": {k: v.decode() if isinstance(v, bytes) else v for k, v in f.attrs.items()},
        }


def write(path, choices, experts, weights=None, steps=None, **about):
    """choices: [steps, micro_batches, layers, tokens, active]; weights likewise."""
    choices = np.asarray(choices)
    rows = (choices.shape[0] * choices.shape[1], *choices.shape[2:])
    how = dict(chunks=(1, 1, *rows[2:]), shuffle=True, compression=1, fletcher32=True)
    with h5py.File(path, "w") as f:
        data = f.create_dataset("choices", data=choices.reshape(rows).astype("<u2"), **how)
        data.attrs["format"] = "rehearse-routing 2"
        data.attrs["experts"] = np.int64(experts)
        data.attrs["micro_batches_per_step"] = np.int64(choices.shape[1])
        if weights is not None:
            f.create_dataset("weights", data=np.asarray(weights).reshape(rows).astype("<f2"), **how)
        f["steps"] = np.asarray(steps if steps is not None else np.arange(len(choices)), dtype="<i8")
        for key, value in about.items():
            f.attrs[key] = value


def drawn(skew, micro_batches, layers, tokens, experts=256, groups=8, kept=4, active=8, seed=1):
    """Choices of one step as DeepSeek-V3's gate makes them: scores are experts' popularity, of this
    standard deviation, plus Gumbel noise; `kept` groups by their two best, then the best experts."""
    random = np.random.default_rng(seed)
    popularity = random.normal(0, skew, (layers, experts)).astype(np.float32)
    out = np.empty((1, micro_batches, layers, tokens, active), np.uint16)
    for m in range(micro_batches):
        for layer in range(layers):
            score = popularity[layer] + random.gumbel(size=(tokens, experts)).astype(np.float32)
            score = score.reshape(tokens, groups, -1)
            order = np.argsort(-np.partition(score, -2, -1)[..., -2:].sum(-1), -1)
            np.put_along_axis(score, order[:, kept:, None], -1e9, 1)
            out[0, m, layer] = np.argpartition(-score.reshape(tokens, experts), active, -1)[:, :active]
    return out


def loads(trace):
    """Tokens of experts over the mean: [steps, layers, experts]."""
    c = trace["choices"]
    count = np.stack([[np.bincount(step[:, layer].ravel(), minlength=trace["experts"])
                       for layer in range(c.shape[2])] for step in c])
    return count / count.mean(-1, keepdims=True)


def main():
    from picture import add_arguments, save

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trace")
    add_arguments(parser, "routing.png")
    args = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    trace = read(args.trace)
    load = loads(trace)
    figure, (heat, time) = plt.subplots(2, 1, figsize=(8, 7), height_ratios=[3, 2])
    image = heat.imshow(load.mean(0), aspect="auto", interpolation="nearest", cmap="viridis")
    figure.colorbar(image, ax=heat, label="tokens / mean")
    heat.set_xlabel("expert")
    heat.set_ylabel("layer with experts")
    for layer in range(load.shape[1]):
        time.plot(trace["steps"], load[:, layer].max(-1), lw=1, label=f"layer {layer}")
    time.set_xlabel("step")
    time.set_ylabel("hottest expert / mean")
    if load.shape[1] <= 10:
        time.legend(fontsize="small")
    time.grid(alpha=0.3)
    figure.tight_layout()
    save(figure, args.out, args.format, dpi=120)


if __name__ == "__main__":
    main()
