"""Trains with and without multi-token prediction on the same text: three seeds each.

run.py TEXT [--steps 200] [--rehearse build/rehearse]
"""

import argparse
import json
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PLAN = """model: {model}
cluster: localhost.yaml
layout: {{pp: 2, schedule: 1f1b}}
training: {{micro_batches: 8, micro_batch_size: 2, sequence_length: 128, steps: {steps}, seed: {seed},
  learning_rate: 4e-3, final_learning_rate: 4e-4, warmup_steps: 20, bias_update_speed: 0.01, mtp_loss: 0.3}}
data: {{validation_fraction: 0.1}}
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rehearse", default=str(HERE.parents[1] / "build/rehearse"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "mtp.yaml").write_text((HERE / "tiny-v3-mtp.yaml").read_text())
        for seed in (1, 2, 3):
            for model in ("tiny-v3.yaml", "mtp.yaml"):
                plan = folder / "plan.yaml"
                plan.write_text(PLAN.format(model=model, steps=args.steps, seed=seed))
                subprocess.run([args.rehearse, "train", plan, "--data", args.text.resolve(), "--out",
                                folder / "run", "--force", "-q"], check=True, stdout=subprocess.DEVNULL)
                steps = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
                second = [s["mtp_loss"][0] for s in steps] if "mtp_loss" in steps[0] else None
                told = f"; second token {second[0]:.3f} -> {sum(second[-10:]) / 10:.3f}" if second else ""
                print(f"seed {seed} {'with MTP   ' if second else 'without MTP'}: validation "
                      f"{steps[-1]['validation_loss']:.4f}, last ten steps "
                      f"{sum(s['loss'] for s in steps[-10:]) / 10:.4f}{told}", flush=True)


main()
