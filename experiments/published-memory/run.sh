#!/usr/bin/env bash
# Peak memory told and measured; see README.md. usage: run.sh   (after `make build`; seconds)
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/published-memory
mkdir -p "$out"
sed 's/^nodes: .*/nodes: 1/; s/  memory: 80 GB/  memory: 180 GB/' topologies/h100-1024.yaml > "$out/eight.yaml"

llama() {  # name, hidden, layers, heads, FFN
  printf 'name: %s\nvocabulary: 128256\nhidden: %d\nlayers: %d\ndense_layers: %d\nattention: {kind: grouped, heads: %d, kv_heads: 8, head_dim: 128}\nmlp: {dense_intermediate: %d}\n' \
    "$1" "$2" "$3" "$3" "$4" "$5" > "$out/$1.yaml"
}
llama llama3-70b-12 8192 12 64 28672
llama llama3-405b-4 16384 4 128 53248
sed 's/^layers: .*/layers: 4/; s/^dense_layers: .*/dense_layers: 1/; s/^mtp_depth: .*/mtp_depth: 0/' models/deepseek-v3.yaml > "$out/deepseek-v3-4.yaml"
sed 's/^layers: .*/layers: 4/' models/deepseek-v2.yaml > "$out/deepseek-v2-4.yaml"

printf '| model | layout | sequence | measured [GiB] | held [GiB] | | with what passes [GiB] | |\n|---|---|---|---|---|---|---|---|\n'
peak() {  # model, layout, sequence, measured
  printf 'model: %s.yaml\ncluster: eight.yaml\nlayout: {%s}\ntraining: {micro_batches: 8, micro_batch_size: 1, sequence_length: %d, precision: bf16, recompute: none}\n' \
    "$1" "$2" "$3" > "$out/plan.yaml"
  build/rehearse inspect "$out/plan.yaml" --json > "$out/plan.json"
  /usr/bin/python3 - "$@" "$out/plan.json" <<'PY'
import json, sys
model, layout, sequence, measured, path = sys.argv[1:]
ranks = [r["memory_bytes"] for r in json.load(open(path))["ranks"]]
held = max(r["total"] for r in ranks) / 2**30
told = max(r["total"] + r["passing"] for r in ranks) / 2**30
off = lambda x: f"{100 * (x / float(measured) - 1):+.1f}%"
print(f"| {model} | {layout} | {sequence} | {measured} | {held:.2f} | {off(held)} | {told:.2f} | {off(told)} |")
PY
}
peak llama3-70b-12 "pp: 2, dp: 4" 4096 66.55
peak llama3-70b-12 "tp: 2, dp: 4" 4096 60.68
peak llama3-70b-12 "tp: 4, dp: 2" 4096 39.07
peak llama3-70b-12 "tp: 8" 4096 28.29
peak llama3-405b-4 "pp: 2, dp: 4" 4096 87.08
peak llama3-405b-4 "tp: 2, dp: 4" 4096 81.59
peak llama3-405b-4 "tp: 4, dp: 2" 4096 52.89
peak llama3-405b-4 "tp: 8" 4096 38.57
peak llama3-70b-12 "tp: 2, cp: 4" 32768 68.43
peak llama3-70b-12 "cp: 8" 32768 104.51
peak llama3-405b-4 "tp: 2, cp: 4" 32768 87.03
peak llama3-405b-4 "cp: 8" 32768 139.22
peak llama3-70b-12 "tp: 2, cp: 4" 131072 112.67
peak llama3-70b-12 "cp: 8" 131072 147.99
peak llama3-405b-4 "tp: 2, cp: 4" 131072 118.13
peak deepseek-v2-4 "dp: 8, ep: 8, dispatcher: all_to_all" 4096 45.63
peak deepseek-v2-4 "pp: 2, dp: 4, ep: 4, dispatcher: all_to_all" 4096 44.70
peak deepseek-v3-4 "dp: 8, ep: 8, dispatcher: all_to_all" 4096 104.30
peak deepseek-v3-4 "pp: 2, dp: 4, ep: 4, dispatcher: all_to_all" 4096 114.00
