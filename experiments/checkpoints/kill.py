"""Kills a training again and again, at random moments and in the middle of saving, and resumes it.

kill.py [--kills 100] [--rehearse build/rehearse]. Ends with 1 unless the resumed training's losses
are those of one that nobody disturbed, to the last bit.
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent


def losses(folder):
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [(s["step"], s["loss"], s["gradient_norm"]) for s in map(json.loads, lines)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rehearse", default=str(HERE.parents[1] / "build/rehearse"))
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        text = folder / "text.txt"
        text.write_text("a training that is killed goes on from a whole checkpoint. " * 400)
        train = [args.rehearse, "train", str(HERE / "plan.yaml"), "--data", str(text), "-q"]
        subprocess.run([*train, "--out", folder / "whole"], check=True, stdout=subprocess.DEVNULL)
        run = folder / "run"
        resumed = [*train, "--checkpoint-every", "1", "--resume", "--out", str(run)]
        kills = writing = 0
        began = time.monotonic()
        for attempt in range(20 * args.kills):
            process = subprocess.Popen(resumed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            # A third of them while a checkpoint is written.
            in_write = kills < args.kills and draw.random() < 1 / 3
            until = time.monotonic() + (5 if in_write else draw.uniform(0.05, 0.5))
            skip = draw.randrange(4)
            while kills < args.kills and process.poll() is None and time.monotonic() < until:
                partial = list(run.glob("checkpoints/*.partial/*")) if in_write else []
                if partial and skip == 0:
                    writing += 1
                    break
                skip -= bool(partial)
                time.sleep(0.0005)
            if kills < args.kills and process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
            error = process.communicate()[1].decode()
            if process.returncode == 0:
                if kills >= args.kills:
                    break
                # Done before all kills: once more from the beginning.
                if losses(run) != losses(folder / "whole"):
                    raise SystemExit("the resumed training's losses are others")
                subprocess.run(["rm", "-rf", run], check=True)
            elif process.returncode != -signal.SIGKILL:
                raise SystemExit(f"exit {process.returncode}: {error}")
        else:
            raise SystemExit("did not come to its end")
        same = losses(run) == losses(folder / "whole")
        print(f"{kills} kills, {writing} of them while a checkpoint was written, in "
              f"{time.monotonic() - began:.0f} s: the losses of {len(losses(run))} steps are "
              f"{'the same to the last bit' if same else 'others'}")
        raise SystemExit(0 if same else 1)


main()
