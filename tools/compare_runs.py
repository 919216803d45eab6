#!/usr/bin/env python3
"""Holds one training against another: losses step by step, and tensors of two safetensors files.

    tools/compare_runs.py log A/log.jsonl B/log.jsonl [--loss SHARE] [--first SHARE]
    tools/compare_runs.py tensors A.safetensors B.safetensors [--largest SHARE | --same-bits]

--loss SHARE: losses may differ by that share of B's, --first: the first one by that. --largest SHARE: every value may differ by that
share of the largest of B's tensor. Prints the worst of each as a JSON line; ends with 1 where one is
out of bounds. Plain Python: machines with a card have nothing of ours.
"""
import argparse
import json
import struct
import sys
from array import array


def log(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


def compare_logs(a, b, share, first):
    worst = {"what": "losses", "steps": 0, "worst_share": 0.0, "step": None}
    for x, y in zip(log(a), log(b), strict=True):
        worst["steps"] += 1
        off = abs(x["loss"] - y["loss"]) / abs(y["loss"])
        if not off <= worst["worst_share"]:  # NaN is the worst
            worst["worst_share"], worst["step"] = off, x["step"]
        if worst["steps"] == 1:
            worst["first_share"] = off
    worst["within"] = (worst["steps"] > 0 and worst["worst_share"] <= share
                       and worst["first_share"] <= (share if first is None else first))
    return worst


def tensors(path):
    with open(path, "rb") as f:
        size, = struct.unpack("<Q", f.read(8))
        head = json.loads(f.read(size))
        rest = f.read()
    head.pop("__metadata__", None)
    return {name: (t["dtype"], rest[slice(*t["data_offsets"])]) for name, t in head.items()}


def values(dtype, data):
    if dtype != "F32":
        raise SystemExit(f"compare_runs.py: tensors of {dtype}; F32 alone are compared")
    out = array("f")
    out.frombytes(data)
    return out


def compare_tensors(a, b, share):
    left, right = tensors(a), tensors(b)
    if left.keys() != right.keys():
        raise SystemExit(f"compare_runs.py: other names: {sorted(left.keys() ^ right.keys())[:5]}")
    worst = {"what": "tensors", "count": len(left), "worst_share": 0.0, "tensor": None, "differ": 0}
    for name, (dtype, data) in left.items():
        if (dtype, data) == right[name]:
            continue
        worst["differ"] += 1
        x, y = values(dtype, data), values(*right[name])
        most = max(map(abs, y)) or 1e-30
        off = max(abs(p - q) if p == p and q == q else float("inf") for p, q in zip(x, y, strict=True))
        if off / most > worst["worst_share"]:
            worst["worst_share"], worst["tensor"] = off / most, name
    worst["within"] = worst["count"] > 0 and worst["worst_share"] <= share
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["log", "tensors"])
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("--loss", type=float, default=0.0)
    parser.add_argument("--first", type=float)
    parser.add_argument("--largest", type=float, default=0.0)
    parser.add_argument("--same-bits", action="store_true")
    args = parser.parse_args()
    if args.what == "log":
        result = compare_logs(args.a, args.b, args.loss, args.first)
    else:
        result = compare_tensors(args.a, args.b, 0.0 if args.same_bits else args.largest)
        if args.same_bits:
            result["within"] = result["within"] and result["differ"] == 0
    print(json.dumps({"a": args.a, "b": args.b, **result}))
    return 0 if result["within"] else 1


sys.exit(main())
