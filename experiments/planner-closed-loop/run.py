#!/usr/bin/python3
"""The planner's ranking against measured steps: its top five and five random layouts that can run.

usage: run.py TEXT [SEED]   (from anywhere, after `make build`; some six minutes)
"""

import itertools
import json
import pathlib
import random
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "planner-closed-loop"
ASK = ["--model", "overlap-v3", "--cluster", "emulated-2x2", "--gpus", "4", "--batch", "20", "--sequence", "256",
       "--precision", "fp32"]
STEPS = 6  # the first is not counted
APART = 1.03  # pairs that measured closer together are not judged


def rehearse(*arguments):
    done = subprocess.run([str(ROOT / "build" / "rehearse"), *arguments, "--json"], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.DEVNULL)
    answer = json.loads(done.stdout)
    if done.returncode != 0:
        sys.exit(f"rehearse {' '.join(arguments)}: {answer}")
    return answer


def ranks(values):
    order = sorted(range(len(values)), key=values.__getitem__)
    return [order.index(i) for i in range(len(values))]


def main():
    text = sys.argv[1]
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    OUT.mkdir(parents=True, exist_ok=True)
    found = rehearse("plan", *ASK, "--simulate", "100000", "--show", "400", "--out", str(OUT / "plans"))["best"]
    # What cannot run here, and ZeRO stages that ranks without replicas take alike, are left out.
    def runs(i):
        return found[i]["runnable"]

    runnable = [i for i in range(len(found)) if runs(i)]
    chosen = runnable[:5] + sorted(random.Random(seed).sample(runnable[5:], 5))
    rows = []
    for i in chosen:
        plan = OUT / "plans" / f"{i + 1}.yaml"
        lines = plan.read_text().replace("training:", f"routing: balanced\ntraining:\n  steps: {STEPS}")
        (OUT / f"{i + 1}.yaml").write_text(lines)
        log = OUT / f"run-{i + 1}"
        rehearse("train", str(OUT / f"{i + 1}.yaml"), "--data", text, "--out", str(log), "--force")
        steps = [json.loads(line) for line in (log / "log.jsonl").read_text().splitlines()]
        times = [s["step_time_s"] for s in steps if "step_time_s" in s][1:]
        measured = statistics.median(times)
        layout = found[i]["layout"]
        rows.append((i + 1, layout, found[i]["step_time_s"], measured))
        print(f"| {i + 1} | PP{layout['pp']} DP{layout['dp']} EP{layout['ep']} {layout['schedule']}, "
              f"{layout['microbatches']} x {layout['micro_batch_size']}, ZeRO-{layout['zero']} | "
              f"{found[i]['step_time_s']:.2f} | {measured:.2f} | "
              f"{100 * (found[i]['step_time_s'] / measured - 1):+.1f}% |", flush=True)
    predicted = [r[2] for r in rows]
    measured = [r[3] for r in rows]
    # Spearman's correlation, and of the pairs that measured apart how many stand in the right order.
    n = len(rows)
    squares = sum((a - b) ** 2 for a, b in zip(ranks(predicted), ranks(measured)))
    right = total = 0
    for a, b in itertools.combinations(range(n), 2):
        if max(measured[a], measured[b]) < APART * min(measured[a], measured[b]):
            continue
        total += 1
        right += (predicted[a] < predicted[b]) == (measured[a] < measured[b])
    # Layouts closer together than that share a rank.
    merged = [min(m for m in measured if x < APART * m) for x in measured]
    order = sorted(set(merged))
    tied = [statistics.mean(j for j, m in enumerate(sorted(merged)) if m == x) for x in merged]
    told = [statistics.mean(j for j, p in enumerate(sorted(predicted)) if p == x) for x in predicted]
    spearman = statistics.correlation(tied, told) if len(order) > 1 else float("nan")
    print(f"\nSpearman: {1 - 6 * squares / (n * (n * n - 1)):.3f} of all, {spearman:.3f} with layouts within 3% of each "
          f"other sharing a rank; pairs more than 3% apart in the right order: {right} of {total}")
    print(f"the picked one over the best measured: {measured[0] / min(measured):.3f}")


main()
