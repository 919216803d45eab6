"""make_pickle.py FOLDER: a file as SGLang's expert distribution recorder pickles it, per token, and what is
in it as text. Exit code 77: PyTorch is missing."""
import pathlib
import sys

import numpy as np

try:
    import torch
except ImportError:
    sys.exit(77)

EXPERTS, ACTIVE, LAYERS, TOKENS, PADDED = 16, 4, 2, 24, 32
out = pathlib.Path(sys.argv[1])
random = np.random.default_rng(3)
to_logical = np.stack([random.permutation(EXPERTS) for _ in range(LAYERS)])
records, told = [], []
for number in range(3):
    physical = np.argsort(random.random((LAYERS, TOKENS, EXPERTS)), -1)[..., :ACTIVE]
    told.append(np.stack([to_logical[layer][physical[layer]] for layer in range(LAYERS)]))
    ids = np.full((LAYERS, PADDED, ACTIVE), -1)  # behind the pass's tokens
    ids[:, :TOKENS] = physical
    records.append({"forward_pass_id": number, "topk_ids_of_layer": torch.tensor(ids)})
torch.save({"records": records, "last_physical_to_logical_map": torch.tensor(to_logical)}, out / "sglang.pt")
np.savetxt(out / "sglang.txt", np.stack(told).reshape(-1, ACTIVE), "%d")
