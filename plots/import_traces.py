#!/usr/bin/env python3
"""Makes NumPy arrays, which `rehearse trace import` reads, of routing traces kept as pickles or
Parquet:

  SGLang's expert distribution recorder (.pt): per-token records become choices
  [steps, 1, layers, tokens, active] where all passes have as many tokens (else a file per pass);
  its counts (`logical_count`) become [steps, layers, experts], for --format counts.
  FLAME-MoE-Traces (actives/iter_N/layer_LL.parquet): choices [steps, 1, layers, tokens, active].

Pickles need PyTorch (python3-torch), Parquet pyarrow. Per-token records of SGLang hold physical
experts; with a map in the file they are turned into logical ones.
"""
import argparse
import pathlib
import re
import sys

import numpy as np


def missing(what, package):
    sys.exit(f"import_traces.py: {what} is not installed: {package}")


def from_pickle(path):
    try:
        import torch
    except ImportError:
        missing("torch", "python3-torch, or pip install torch")
    data = torch.load(path, map_location="cpu", weights_only=False)
    if "logical_count" in data:
        return {"counts": np.asarray(data["logical_count"])}
    if "records" not in data:
        sys.exit(f"{path}: neither 'logical_count' nor 'records': no file of SGLang's recorder")
    to_logical = data.get("last_physical_to_logical_map")
    passes = []
    for record in data["records"]:
        ids = np.asarray(record["topk_ids_of_layer"])  # [layers, tokens, active], -1 behind the end
        tokens = int((ids[0, :, 0] >= 0).sum())
        ids = ids[:, :tokens]
        if (ids < 0).any():
            sys.exit(f"{path}: pass {record['forward_pass_id']} has tokens with fewer experts than others")
        if to_logical is not None:
            table = np.asarray(to_logical)
            ids = np.stack([table[layer][ids[layer]] for layer in range(len(ids))])
        passes.append(ids)
    if len({p.shape for p in passes}) == 1:
        return {"choices": np.stack(passes)[:, None]}
    return {f"pass_{i}": p[None] for i, p in enumerate(passes)}


def from_parquet(folder):
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        missing("pyarrow", "pip install pyarrow")
    number = lambda p: int(re.search(r"(\d+)", p.name).group(1))
    steps = []
    for step in sorted(folder.glob("iter_*"), key=number):
        layers = [np.stack(parquet.read_table(f, columns=["indices"])["indices"].to_numpy())
                  for f in sorted(step.glob("layer_*.parquet"), key=number)]
        steps.append(np.stack(layers))
    if not steps:
        sys.exit(f"{folder}: no iter_N/layer_LL.parquet")
    return {"choices": np.stack(steps)[:, None]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=pathlib.Path, help="a .pt file, or a folder of iter_N")
    parser.add_argument("out", help="the .npz to write")
    args = parser.parse_args()
    arrays = from_parquet(args.source) if args.source.is_dir() else from_pickle(args.source)
    np.savez_compressed(args.out, **arrays)
    for name, array in arrays.items():
        print(f"{args.out}: {name} {array.shape}")


if __name__ == "__main__":
    main()
