#!/usr/bin/env python3
"""How routing is kept balanced: four ways on the same text, three seeds each.

run.py TEXT [--steps N] [--program PATH] [--out FOLDER]: trains models/tiny-v3.yaml with DeepSeek-V3's
biases and sequence-wise loss, the classic auxiliary loss over micro-batches, that of sequences alone,
and nothing; prints validation loss, load of the hottest expert over the last tenth of the steps, its
largest over all steps, and experts that starve (under a tenth of the mean) in the last step.
"""
import argparse
import json
import pathlib
import statistics
import subprocess

WAYS = {
    "bias (V3)": "bias_update_speed: 0.01, balance_loss: 1e-4",
    "auxiliary loss": "bias_update_speed: 0, balance_loss: 0.01, balance_over: micro_batch",
    "sequence-wise loss": "bias_update_speed: 0, balance_loss: 0.01",
    "none": "bias_update_speed: 0, balance_loss: 0",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--program", default="build/rehearse")
    parser.add_argument("--out", default="out/aux-loss-free", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print("| way | validation loss | hottest at the end | hottest ever | starving |")
    print("|---|---|---|---|---|")
    for way, keys in WAYS.items():
        rows = []
        for seed in (1, 2, 3):
            name = "".join(c if c.isalnum() else "-" for c in way) + f"-{seed}"
            plan = args.out / f"{name}.yaml"
            plan.write_text(
                "model: tiny-v3.yaml\ncluster: localhost.yaml\nlayout: {dp: 2}\n"
                f"training: {{micro_batches: 4, micro_batch_size: 2, sequence_length: 128, steps: {args.steps},"
                f" learning_rate: 4e-3, warmup_steps: 20, seed: {seed}, {keys}}}\n")
            run = args.out / name
            subprocess.run([args.program, "train", plan, "--data", args.text, "--out", run, "--force", "-q",
                            "--record-routing", run / "routing.h5"],
                           check=True, stdout=subprocess.DEVNULL)
            result = json.loads((run / "result.json").read_text())
            log = [json.loads(line) for line in (run / "log.jsonl").open()]
            replay = json.loads(subprocess.run(
                [args.program, "replay", run / "routing.h5", plan, "--simulate", "0", "--json"],
                check=True, stdout=subprocess.PIPE).stdout)
            rows.append((result["val_loss"], result["max_expert_load"],
                         max(s["max_expert_load"] for s in log),
                         statistics.mean(layer["starving"] for layer in replay["layers"])))
        told = []
        for values, form in zip(zip(*rows), ("{:.4f}", "{:.2f}", "{:.2f}", "{:.1%}")):
            spread = max(values) - min(values)
            told.append(form.format(statistics.mean(values)) + " (" + form.format(spread) + ")")
        print(f"| {way} | " + " | ".join(told) + " |", flush=True)


if __name__ == "__main__":
    main()
