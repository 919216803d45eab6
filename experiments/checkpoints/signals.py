"""Signals that come twice, as `timeout` and launchers send them, and rivals for one folder.

signals.py [--doubles 100] [--rivals 60] [--rehearse build/rehearse]. Doubles: a training without
--checkpoint-every is signalled twice, less than a second apart; it must end with a whole checkpoint
of its last step, from which the rest has the same losses, to the last bit. Rivals: two trainings are
started for one folder, one is killed; whoever has the folder goes on alone, and in the end its losses
are those of a training that nobody disturbed. Ends with 1 where anything is lost or mixed.
"""

import argparse
import json
import pathlib
import random
import shutil
import signal
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent


def losses(folder):
    """Of every step of a log, each of which must be there once and in order."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    steps = [(s["step"], s["loss"], s["gradient_norm"]) for s in map(json.loads, lines)]
    if [s[0] for s in steps] != list(range(1, len(steps) + 1)):
        raise SystemExit(f"{folder}: steps are missing or mixed: {[s[0] for s in steps]}")
    return steps


def started(log, process):
    """Waits until a step has ended."""
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.002)


def doubles(args, folder, train, whole, draw):
    lost = 0
    for i in range(args.doubles):
        run = folder / f"double{i}"
        command = [*train, "--out", str(run)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        started(run / "log.jsonl", process)
        time.sleep(draw.uniform(0, 0.05))
        process.send_signal(draw.choice([signal.SIGINT, signal.SIGTERM]))
        time.sleep(draw.choice([0, 0.001, 0.01, 0.1]) * draw.random() * 9)
        process.send_signal(draw.choice([signal.SIGINT, signal.SIGTERM]))
        error = process.communicate()[1].decode()
        # Of two that wait together the kernel hands over SIGINT first.
        if process.returncode not in (0, 128 + signal.SIGINT, 128 + signal.SIGTERM):
            raise SystemExit(f"double signal {i}: exit {process.returncode}: {error}")
        if process.returncode != 0:
            subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
        lost += losses(run) != whole
        shutil.rmtree(run)
    return lost


def rivals(args, folder, train, whole, draw):
    mixed = refused = 0
    run = folder / "rivals"
    for i in range(args.rivals):
        command = [*train, "--out", str(run), "--checkpoint-every", "1", "--resume"]
        pair = []
        for _ in range(2):
            pair.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
            time.sleep(draw.choice([0, 0.002, 0.05]) * draw.random())
        time.sleep(draw.uniform(0, 0.5))
        pair[draw.randrange(2)].kill()
        for process in pair:
            error = process.communicate()[1].decode()
            refused += "another process works in this folder: process" in error
            if process.returncode not in (0, 1, -signal.SIGKILL):
                raise SystemExit(f"rivals {i}: exit {process.returncode}: {error}")
            if process.returncode == 1 and "another process works in this folder" not in error:
                raise SystemExit(f"rivals {i}: {error}")
        if (run / "result.json").exists():
            mixed += losses(run) != whole
            shutil.rmtree(run)
    subprocess.run([*train, "--out", str(run), "--resume"], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    mixed += losses(run) != whole
    return mixed, refused


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--doubles", type=int, default=100)
    parser.add_argument("--rivals", type=int, default=60)
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
        whole = losses(folder / "whole")
        began = time.monotonic()
        lost = doubles(args, folder, train, whole, draw)
        mixed, refused = rivals(args, folder, train, whole, draw)
        print(f"{args.doubles} double signals, {lost} lost; {args.rivals} pairs of rivals, {refused} "
              f"refused by the holder's name, {mixed} mixed; {time.monotonic() - began:.0f} s")
        raise SystemExit(1 if lost or mixed else 0)


main()
