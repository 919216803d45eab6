"""Damaged inputs and odd arguments for every verb, with --json: whatever comes, the program ends by
itself with 0, 1 or 2, within a bound of memory and time, and its output is one JSON object in UTF-8.

any_input.py PROGRAM SOURCES [COUNT [SEED]]
"""
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile

MOST_MEMORY = 2_500_000_000  # bytes of address space that may be filled
MOST_SECONDS = 300

STEP = "micro_batches: 2, micro_batch_size: 1, sequence_length: 32, steps: 2"


class Inputs:
    """Small valid inputs in a folder, and calls that read them."""

    def __init__(self, program, sources, folder):
        self.program, self.folder = program, folder
        for source, name in [("models/tiny-v3.yaml", "model.yaml"),
                             ("topologies/localhost.yaml", "cores.yaml"),
                             ("topologies/h100-1024.yaml", "gpus.yaml"),
                             ("topologies/h800-published.calibration.yaml", "published.yaml")]:
            shutil.copy(os.path.join(sources, source), os.path.join(folder, name))
        self.write("text.txt", "whatever is read is read with care. " * 400)
        self.write("cores-plan.yaml",
                   "model: model.yaml\ncluster: cores.yaml\nlayout: {pp: 1, dp: 2, ep: 2}\n"
                   f"training: {{{STEP}}}\ndata: {{text: text.txt}}\n")
        self.write("gpu-plan.yaml",
                   "model: model.yaml\ncluster: gpus.yaml\nlayout: {pp: 1, dp: 2, ep: 2}\n"
                   f"training: {{{STEP}, precision: bf16}}\n"
                   "expert_load: {kind: recorded, file: routing.h5}\nexpert_placement: map.json\n")
        self.write("config.json", json.dumps({
            "model_type": "deepseek_v3", "hidden_size": 64, "num_hidden_layers": 2,
            "first_k_dense_replace": 1, "intermediate_size": 128, "moe_intermediate_size": 32,
            "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1,
            "topk_group": 1, "norm_topk_prob": True, "scoring_func": "sigmoid",
            "topk_method": "noaux_tc", "routed_scaling_factor": 1.0, "num_attention_heads": 4,
            "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
            "v_head_dim": 8, "vocab_size": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000,
            "num_nextn_predict_layers": 0, "hidden_act": "silu", "tie_word_embeddings": False}))
        self.write("hf-plan.yaml",
                   "model: config.json\ncluster: gpus.yaml\nlayout: {pp: 1, dp: 2, ep: 2}\n"
                   f"training: {{{STEP}, precision: bf16}}\n")
        self.write("present.args", "--tensor-model-parallel-size 1\n--expert-model-parallel-size 2\n")
        self.write("choices.csv", "layer,expert\n" + "".join(
            f"{layer},{(3 * i + layer) % 8}\n" for layer in range(2) for i in range(16)))
        self.write("products.csv", "dtype,m,n,k,us\n" + "".join(
            f"bfloat16,{m},{n},{k},{20 + m * n * k / 3e8:.3f}\n"
            for m in (1024, 2048, 4096) for n in (1024, 2048, 4096) for k in (1024, 4096)))
        for arguments in ["train cores-plan.yaml --out made --record-routing routing.h5 "
                          "--checkpoint-every 1",
                          "replay routing.h5 cores-plan.yaml --policy published "
                          "--write-placement map.json",
                          "simulate cores-plan.yaml --timeline predicted.json",
                          "calibrate cores-plan.yaml --no-grid --rounds 1 --milliseconds 0.01 "
                          "--out cores.cal"]:
            done = subprocess.run([program, *arguments.split(), "-q"], cwd=folder,
                                  capture_output=True, check=False)
            if done.returncode != 0:
                sys.exit(f"{arguments}: {done.stderr.decode(errors='replace')}")
        shutil.copy(os.path.join(folder, "made/checkpoints/step-00000002/"
                                 "model-00001-of-00001.safetensors"),
                    os.path.join(folder, "weights.safetensors"))

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write(text)


# Each with the files that are damaged for it.
CALLS = [
    ("inspect cores-plan.yaml", ["cores-plan.yaml", "model.yaml", "cores.yaml"]),
    ("inspect hf-plan.yaml", ["hf-plan.yaml", "config.json", "gpus.yaml"]),
    ("simulate cores-plan.yaml --calibration cores.cal", ["cores-plan.yaml", "cores.cal", "model.yaml"]),
    ("simulate gpu-plan.yaml --timeline o/t.json --page o/p.html",
     ["gpu-plan.yaml", "gpus.yaml", "routing.h5", "map.json", "model.yaml"]),
    ("simulate gpu-plan.yaml --calibration published.yaml", ["published.yaml"]),
    ("plan --model model.yaml --cluster gpus.yaml --gpus 2 --batch 4 --sequence 32 --precision bf16 "
     "--simulate 1 --show 1 --threads 1 --present present.args", ["model.yaml", "gpus.yaml", "present.args"]),
    ("plan --compare gpu-plan.yaml hf-plan.yaml", ["gpu-plan.yaml", "hf-plan.yaml", "config.json"]),
    ("train cores-plan.yaml --out o --steps 1", ["cores-plan.yaml", "model.yaml", "text.txt"]),
    ("train cores-plan.yaml --out o --steps 1 --from weights.safetensors", ["weights.safetensors"]),
    ("train cores-plan.yaml --out made --resume", ["made/checkpoints/step-00000002/manifest.json",
                                                   "made/log.jsonl"]),
    ("replay routing.h5 cores-plan.yaml --placement map.json", ["routing.h5", "map.json", "cores-plan.yaml"]),
    ("trace import choices.csv --format csv --experts 8 --active 2 --out o/r.h5", ["choices.csv"]),
    ("trace show routing.h5", ["routing.h5"]),
    ("compare cores-plan.yaml --measured made/timeline.json --predicted predicted.json",
     ["made/timeline.json", "predicted.json", "cores-plan.yaml"]),
    ("calibrate gpu-plan.yaml --judge-table products.csv", ["products.csv", "gpu-plan.yaml"]),
    ("calibrate --check cores.cal --milliseconds 0.01", ["cores.cal"]),
    ("validate cores-plan.yaml --calibration cores.cal --steps 1 --runs 1 --out o", ["cores-plan.yaml", "cores.cal"]),
]

ODD = [b"\xe9", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x00", b"\x1b[31m",
       "中文".encode(), "é".encode(), b"\r\n", b"\t", b"\"", b"'", b"\\", b"{", b"]", b": ", b"#",
       b"~", b"!!x", b"&a *a", b"%", b"-1", b"1e999", b"nan", b"99999999999999999999", b"0x10"]


def damaged(data, rng):
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(7)
    if kind == 0:
        return data[:at]
    if kind == 1 and data:
        at = rng.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1:]
    if kind == 2:
        return data[:at] + rng.choice(ODD) + data[at:]
    if kind == 3:  # a number made another
        digits = [i for i, b in enumerate(data) if chr(b).isdigit()]
        if digits:
            at = rng.choice(digits)
            end = at
            while end < len(data) and chr(data[end]) in "0123456789.":
                end += 1
            return data[:at] + rng.choice(ODD[-5:] + [b"0", b"1", b"7", b"1e-300"]) + data[end:]
    if kind == 4:  # a line twice, or gone
        lines = data.split(b"\n")
        at = rng.randrange(len(lines))
        return b"\n".join(lines[:at] + rng.choice([[], [lines[at]] * 2]) + lines[at + 1:])
    if kind == 5:  # a line made long
        return data[:at] + rng.choice(["中".encode(), "é".encode(), b"x", b"\xe9"]) * 300 + data[at:]
    return data[:at] + data[rng.randrange(len(data) + 1):]


def damage_arguments(words, rng):
    """A word made another, twice, or gone; a file's name with bytes that are no UTF-8."""
    words = [w.encode() for w in words]
    at = rng.randrange(len(words))
    kind = rng.randrange(4)
    if kind == 0:
        words[at] += rng.choice(ODD).replace(b"\x00", b"\x01")
    elif kind == 1:
        del words[at]
    elif kind == 2:
        words.insert(at, words[at])
    else:
        words.insert(at, b"--" + rng.choice(ODD).replace(b"\x00", b"\x01"))
    return words


def refuse_constant(name):
    raise ValueError(f"{name} is no JSON")


def limit():
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))


def outcome(program, words, folder):
    """What is wrong with a run; None: nothing."""
    try:
        done = subprocess.run([program, *words, "--json"], cwd=folder, capture_output=True,
                              timeout=MOST_SECONDS, preexec_fn=limit, stdin=subprocess.DEVNULL,
                              check=False)
    except subprocess.TimeoutExpired:
        return "does not end"
    if done.returncode not in (0, 1, 2):
        return f"ends with {done.returncode}: {done.stderr[-300:]!r}"
    if b"a bug of ours" in done.stderr or b"json.exception" in done.stderr:
        return f"a bug: {done.stderr[-300:]!r}"
    if b"--help" in words or b"-h" in words:
        return None
    try:
        answer = json.loads(done.stdout.decode("utf-8"), parse_constant=refuse_constant)
    except ValueError as error:
        return f"no JSON: {error}: {done.stdout[-200:]!r} {done.stderr[-200:]!r}"
    if done.returncode != 0 and done.returncode != 1 and "error" not in answer:
        return "no error in the JSON"
    return None


def main():
    program, sources = os.path.abspath(sys.argv[1]), sys.argv[2]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 150
    rng = random.Random(int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    wrong = tried = 0
    with tempfile.TemporaryDirectory() as whole:
        Inputs(program, sources, whole)
        with tempfile.TemporaryDirectory() as folder:
            for i in range(count):
                shutil.rmtree(folder)
                shutil.copytree(whole, folder)
                arguments, files = CALLS[i % len(CALLS)]
                words = [w.encode() for w in arguments.split()]
                if rng.random() < 0.25:
                    words = words[:1] + damage_arguments(arguments.split()[1:], rng)
                    what = "arguments"
                else:
                    what = rng.choice(files)
                    path = os.path.join(folder, what)
                    with open(path, "rb") as file:
                        data = file.read()
                    with open(path, "wb") as file:
                        file.write(damaged(data, rng))
                tried += 1
                problem = outcome(program, words, folder)
                if problem is not None:
                    wrong += 1
                    kept = f"{tempfile.gettempdir()}/any_input_{i}"
                    shutil.rmtree(kept, ignore_errors=True)
                    shutil.copytree(folder, kept)
                    print(f"{i}: {b' '.join(words)!r} ({what}): {problem}\n  kept in {kept}", flush=True)
            for arguments, files in CALLS:  # what never ends, instead of a file
                for name in files:
                    shutil.rmtree(folder)
                    shutil.copytree(whole, folder)
                    os.remove(os.path.join(folder, name))
                    os.symlink("/dev/zero", os.path.join(folder, name))
                    tried += 1
                    problem = outcome(program, [w.encode() for w in arguments.split()], folder)
                    if problem is not None:
                        wrong += 1
                        print(f"{arguments}: {name} is /dev/zero: {problem}", flush=True)
    print(f"{tried} inputs, {wrong} with something wrong")
    sys.exit(1 if wrong else 0)


main()
