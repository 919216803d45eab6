"""Writes small routing traces in others' formats, from their descriptions, and the same choices as
plain text for comparison. Nothing of rehearse is in it.

make_traces.py FOLDER
"""

import json
import pathlib
import sys

import numpy as np

EXPERTS, ACTIVE, TOKENS, STEPS, MICRO_BATCHES, LAYERS = 16, 4, 24, 2, 3, 2
random = np.random.default_rng(1)
out = pathlib.Path(sys.argv[1])


def choices(*shape):
    order = np.argsort(random.random((*shape, EXPERTS)), -1)
    return order[..., :ACTIVE]


def megatron(prefix, base, times, **style):
    """Ranks 0 and 1 hold layers 0 and 1, ranks 2 and 3 layers 2 and 3."""
    told = np.zeros((STEPS, 2 * MICRO_BATCHES, 2 * LAYERS, TOKENS, ACTIVE), int)
    for rank in range(4):
        with open(out / f"{prefix}{rank}.jsonl", "w") as file:
            for step in range(STEPS):
                lines = []
                for m in range(MICRO_BATCHES):
                    for layer in range(LAYERS):
                        c = np.sort(choices(TOKENS), -1)
                        told[step, rank % 2 * MICRO_BATCHES + m, rank // 2 * LAYERS + layer] = c
                        line = {"step": 10 + step, "stage": "pre_dispatch", "block": "decoder",
                                "layer": layer + base, "rank": rank, "num_tokens": TOKENS,
                                "topk": ACTIVE, "top_indices": c.tolist()}
                        lines.append(json.dumps(line, **style) + "\n")
                for _ in range(times):
                    file.writelines(lines)
    np.savetxt(out / f"{prefix}.txt", told.reshape(-1, ACTIVE), "%d")


megatron("router_trace_rank", 1, 1)
megatron("compact", 0, 1, separators=(",", ":"))
megatron("recomputed", 0, 2)

request = choices(TOKENS, LAYERS)  # vLLM's: [tokens, layers, k]
np.save(out / "request.npy", request.astype(np.uint8))
np.savetxt(out / "request.txt", request.transpose(1, 0, 2).reshape(-1, ACTIVE), "%d")
steps = choices(STEPS, MICRO_BATCHES, LAYERS, TOKENS)
np.savez(out / "stored.npz", choices=steps.astype(np.int32))
np.savez_compressed(out / "packed.npz", choices=steps.astype(np.int64), other=np.arange(5))
np.savetxt(out / "steps.txt", steps.reshape(-1, ACTIVE), "%d")
with open(out / "llama.csv", "w") as file:
    file.write("layer,expert\n")
    for layer in range(LAYERS):
        for token in request[:, layer]:
            file.writelines(f"{layer},{e}\n" for e in token)
counts = np.stack([np.bincount(choices(TOKENS).ravel(), minlength=EXPERTS) for _ in range(LAYERS)])
np.save(out / "counts.npy", counts.astype(np.int32))
np.savetxt(out / "counts.txt", counts, "%d")
np.save(out / "fortran.npy", np.asfortranarray(request))
np.save(out / "floats.npy", request.astype(float))
