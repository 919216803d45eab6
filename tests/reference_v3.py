"""DeepSeek-V3, and models of grouped heads and softmax gates as Qwen3's, from their equations, in
double precision with NumPy: an independent reference.

Written from the technical report (arXiv 2412.19437: equations 1-11 MLA, 12-20 experts and balance,
21-25 multi-token prediction; arXiv 2305.13245 and 2505.09388 for the others) and the names of Hugging Face's files; nothing of rehearse is in it.

reference_v3.py CONFIG WEIGHTS LOGITS GRADIENTS --balance-loss A --mtp-loss L
CONFIG: Hugging Face's config.json. WEIGHTS: safetensors. LOGITS, GRADIENTS: as `rehearse train --from
WEIGHTS --steps 0 --dump-logits LOGITS --dump-gradients GRADIENTS` writes them. Compares logits
element by element, and the gradient of every tensor: its product with random directions against
central differences of the loss, and single elements. Ends with 1 where they differ.
"""

import argparse
import json
import math
import pathlib
import struct
import sys

import numpy as np


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    types = {"F32": np.float32, "I64": np.int64, "F64": np.float64}
    meta = header.pop("__metadata__", {})
    out = {}
    for name, e in header.items():
        begin, end = (8 + length + o for o in e["data_offsets"])
        out[name] = np.frombuffer(data[begin:end], types[e["dtype"]]).reshape(e["shape"]).copy()
    return out, meta


class Model:
    def __init__(self, config, weights):
        self.c = config
        self.w = {k: v.astype(np.float64) for k, v in weights.items()}
        self.choices = {}  # of every gate, kept: the choice has no gradient

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.c["rms_norm_eps"]) * self.w[name + ".weight"]

    def linear(self, x, name):
        return x @ self.w[name + ".weight"].T

    def rope(self):
        c, d = self.c, self.c.get("qk_rope_head_dim") or self.c["head_dim"]
        theta = c["rope_theta"]
        f = theta ** (-np.arange(0, d, 2) / d)
        amplitude, softmax = 1.0, 1.0
        s = c.get("rope_scaling")
        if s:
            size = lambda m: 1.0 if s["factor"] <= 1 else 0.1 * m * math.log(s["factor"]) + 1
            turns = lambda n: d * math.log(s["original_max_position_embeddings"] / (n * 2 * math.pi)) / (2 * math.log(theta))
            low = max(math.floor(turns(s["beta_fast"])), 0)
            high = min(math.ceil(turns(s["beta_slow"])), d - 1)
            ramp = np.clip((np.arange(d // 2) - low) / (high - low if high > low else 0.001), 0, 1)
            f = f / s["factor"] * ramp + f * (1 - ramp)
            amplitude = size(s["mscale"]) / size(s["mscale_all_dim"])
            softmax = size(s["mscale_all_dim"]) ** 2
        return f, amplitude, softmax

    def rotate(self, x, f, amplitude):  # [..., T, d], neighbours are pairs
        angle = np.arange(x.shape[-2])[:, None] * f
        a, b = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2] = amplitude * (a * np.cos(angle) - b * np.sin(angle))
        out[..., 1::2] = amplitude * (a * np.sin(angle) + b * np.cos(angle))
        return out

    def grouped(self, x, p):
        c = self.c
        batch, length, _ = x.shape
        heads, shared, d = (c[k] for k in ("num_attention_heads", "num_key_value_heads", "head_dim"))
        split = lambda y, n: y.reshape(batch, length, n, d).transpose(0, 2, 1, 3)
        q, k, v = (split(self.linear(x, p + name), n)
                   for name, n in (("q_proj", heads), ("k_proj", shared), ("v_proj", shared)))
        if p + "q_norm.weight" in self.w:
            q, k = self.norm(q, p + "q_norm"), self.norm(k, p + "k_norm")
        f, amplitude, _ = self.rope()
        angle = np.arange(length)[:, None] * np.concatenate([f, f])

        def turn(y):  # the first half with the second
            half = np.concatenate([-y[..., d // 2:], y[..., :d // 2]], -1)
            return amplitude * (y * np.cos(angle) + half * np.sin(angle))

        q, k = turn(q), turn(k)
        k, v = (np.repeat(y, heads // shared, 1) for y in (k, v))
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(d)
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        out = scores / scores.sum(-1, keepdims=True) @ v
        return self.linear(out.transpose(0, 2, 1, 3).reshape(batch, length, heads * d), p + "o_proj")

    def attention(self, x, p):
        c = self.c
        if "kv_lora_rank" not in c:
            return self.grouped(x, p)
        batch, length, _ = x.shape
        heads, nope, pe, v = (c[k] for k in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
        if c.get("q_lora_rank"):
            q = self.linear(self.norm(self.linear(x, p + "q_a_proj"), p + "q_a_layernorm"), p + "q_b_proj")
        else:
            q = self.linear(x, p + "q_proj")
        q = q.reshape(batch, length, heads, nope + pe).transpose(0, 2, 1, 3)
        kv = self.linear(x, p + "kv_a_proj_with_mqa")
        latent, k_pe = kv[..., :c["kv_lora_rank"]], kv[..., c["kv_lora_rank"]:]
        kv = self.linear(self.norm(latent, p + "kv_a_layernorm"), p + "kv_b_proj")
        kv = kv.reshape(batch, length, heads, nope + v).transpose(0, 2, 1, 3)
        f, amplitude, softmax = self.rope()
        q_pe = self.rotate(q[..., nope:], f, amplitude)
        k_pe = self.rotate(k_pe, f, amplitude)[:, None]
        scores = (q[..., :nope] @ kv[..., :nope].swapaxes(-1, -2) + q_pe @ k_pe.swapaxes(-1, -2))
        scores = scores * softmax / math.sqrt(nope + pe)
        scores = np.where(np.tril(np.ones((length, length), bool)), scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        out = scores / scores.sum(-1, keepdims=True) @ kv[..., nope:]
        return self.linear(out.transpose(0, 2, 1, 3).reshape(batch, length, heads * v), p + "o_proj")

    def ffn(self, x, p):
        gate = self.linear(x, p + "gate_proj")
        return self.linear(gate / (1 + np.exp(-gate)) * self.linear(x, p + "up_proj"), p + "down_proj")

    def experts(self, x, p):
        c = self.c
        batch, length, hidden = x.shape
        n = c.get("n_routed_experts") or c["num_experts"]
        k = c["num_experts_per_tok"]
        s = self.linear(x, p + "gate")
        if c.get("scoring_func") == "sigmoid":
            s = 1 / (1 + np.exp(-s))
        else:
            s = np.exp(s - s.max(-1, keepdims=True))
            s = s / s.sum(-1, keepdims=True)
        if p not in self.choices and "n_group" not in c:
            self.choices[p] = np.argsort(-s, -1, kind="stable")[..., :k]
        if p not in self.choices:
            bias = self.w.get(p + "gate.e_score_correction_bias")
            choice = s if bias is None else s + bias
            groups = choice.reshape(batch, length, c["n_group"], -1)
            score = np.sort(groups, -1)[..., -2:].sum(-1) if bias is not None else groups.max(-1)
            kept = np.argsort(-score, -1, kind="stable")[..., :c["topk_group"]]
            mask = np.zeros(score.shape, bool)
            np.put_along_axis(mask, kept, True, -1)
            choice = np.where(np.repeat(mask, n // c["n_group"], -1), choice, -np.inf)
            self.choices[p] = np.argsort(-choice, -1, kind="stable")[..., :k]
        chosen = self.choices[p]
        weights = np.take_along_axis(s, chosen, -1)
        if c["norm_topk_prob"]:
            weights = weights / weights.sum(-1, keepdims=True)
        weights = weights * c.get("routed_scaling_factor", 1)
        out = self.ffn(x, p + "shared_experts.") if c.get("n_shared_experts") else np.zeros_like(x)
        for e in range(n):
            rows = (chosen == e)
            at = rows.any(-1)
            if not at.any():
                continue
            out[at] += self.ffn(x[at], f"{p}experts.{e}.") * (weights * rows).sum(-1)[at][:, None]
        # Equations 17-20, of every sequence.
        selected = np.stack([(chosen == e).sum((-1, -2)) for e in range(n)], -1)
        f = n / (k * length) * selected
        mean = (s / s.sum(-1, keepdims=True)).mean(1)
        self.balance += (f * mean).sum() / batch
        return out

    def layer(self, x, i):
        p = f"model.layers.{i}."
        h = x + self.attention(self.norm(x, p + "input_layernorm"), p + "self_attn.")
        y = self.norm(h, p + "post_attention_layernorm")
        dense = i < self.c.get("first_k_dense_replace", 0) or "num_experts_per_tok" not in self.c
        return h + (self.ffn(y, p + "mlp.") if dense else self.experts(y, p + "mlp."))

    def cross_entropy(self, logits, labels):
        most = logits.max(-1, keepdims=True)
        lse = np.log(np.exp(logits - most).sum(-1)) + most[..., 0]
        return lse - np.take_along_axis(logits, labels[..., None], -1)[..., 0]

    def losses(self, tokens, labels, balance_loss, mtp_loss):
        """Logits, the main loss, and all that is minimised."""
        c = self.c
        self.balance = 0.0
        x = self.w["model.embed_tokens.weight"][tokens]
        for i in range(c["num_hidden_layers"]):
            x = self.layer(x, i)
        logits = self.linear(self.norm(x, "model.norm"), "lm_head")
        main = self.cross_entropy(logits, labels).mean()
        total = main
        count = c.get("num_nextn_predict_layers", 0)
        # Tokens of a sequence and the one behind it.
        all_tokens = np.concatenate([tokens, labels[:, -1:]], 1)
        length = tokens.shape[1]
        for module in range(1, count + 1):
            i = c["num_hidden_layers"] + module - 1
            p = f"model.layers.{i}."
            # Behind the end of a sequence the last token again: what it makes is not counted.
            ahead = all_tokens[:, np.minimum(np.arange(length) + module, length)]
            embedded = self.w["model.embed_tokens.weight"][ahead]
            both = np.concatenate([self.norm(embedded, p + "enorm"), self.norm(x, p + "hnorm")], -1)
            x = self.layer(self.linear(both, p + "eh_proj"), i)
            guess = self.linear(self.norm(x, p + "shared_head.norm"), "lm_head")
            predicted = length - module
            loss = self.cross_entropy(guess[:, :predicted], labels[:, module:]).sum() / tokens.size
            total += mtp_loss / count * loss
        return logits, main, total + balance_loss * self.balance


def main():
    parser = argparse.ArgumentParser()
    for name in ("config", "weights", "logits", "gradients"):
        parser.add_argument(name)
    parser.add_argument("--balance-loss", type=float, required=True)
    parser.add_argument("--mtp-loss", type=float, required=True)
    args = parser.parse_args()
    config = json.loads(pathlib.Path(args.config).read_text())
    weights, _ = read_safetensors(args.weights)
    theirs, meta = read_safetensors(args.logits)
    gradients, _ = read_safetensors(args.gradients)
    model = Model(config, weights)
    run = lambda: model.losses(theirs["input_ids"], theirs["labels"], args.balance_loss, args.mtp_loss)
    logits, main_loss, _ = run()
    wrong = []
    off = np.abs(logits - theirs["logits"]).max() / np.abs(logits).max()
    if not off < 1e-4:
        wrong.append(f"logits are off by {off:.2e}")
    if not abs(float(meta["loss"]) / main_loss - 1) < 1e-6:
        wrong.append(f"the loss is {meta['loss']}, here {main_loss}")
    trained = {n for n in weights if not n.endswith("e_score_correction_bias")}
    if trained != set(gradients):
        wrong.append(f"gradients of other tensors: {sorted(trained ^ set(gradients))[:5]}")
    random = np.random.default_rng(1)
    worst = 0
    for name in sorted(trained & set(gradients)):
        w, g = model.w[name], gradients[name].astype(np.float64)
        scale = np.linalg.norm(g)
        directions = [random.standard_normal(w.shape) for _ in range(2)]
        single = np.zeros(w.shape)
        single[np.unravel_index(np.abs(g).argmax(), w.shape)] = math.sqrt(w.size)
        for d in [*directions, single]:
            d = d / np.linalg.norm(d)
            step = 1e-5
            ends = []
            for sign in (1, -1):
                model.w[name] = w + sign * step * d
                ends.append(run()[2])
            model.w[name] = w
            slope = (ends[0] - ends[1]) / (2 * step)
            # A random direction sees about scale / sqrt(size) of a gradient.
            error = abs(slope - (g * d).sum()) / (abs(slope) + scale / math.sqrt(w.size) + 1e-9)
            worst = max(worst, error)
            if not error < 2e-3:
                wrong.append(f"{name}: the gradient along a direction is {(g * d).sum():.6e}, here {slope:.6e}")
    print(f"logits off by {off:.1e} of the largest; gradients of {len(gradients)} tensors off by {worst:.1e} at most")
    for line in wrong:
        print("WRONG:", line)
    sys.exit(1 if wrong else 0)


main()
