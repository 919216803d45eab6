#!/usr/bin/env bash
# What TP2 costs where EP64 hides; see README.md. usage: run.sh   (after `make build`; a minute)
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/tp-or-ep
out=out/tp-or-ep
python=/usr/bin/python3
mkdir -p "$out"
# The same cluster with an H100's NVLink: twice an H800's.
sed 's/bandwidth: 160 GB/bandwidth: 320 GB/' topologies/h800-2048.yaml > "$out/twice-nvlink.yaml"
results=()
for link in h800 twice-nvlink; do
  for plan in tp1 tp2 tp2-small tp2-ep32; do
    name=$plan-$link
    sed "s|cluster: .*|cluster: $([ $link = h800 ] && echo h800-2048.yaml || echo twice-nvlink.yaml)|" "$here/$plan.yaml" > "$out/$name.yaml"
    build/rehearse simulate "$out/$name.yaml" --fold --json --quiet --ranks 1024 --link-load "$out/$name-links.json" > "$out/$name.json"
    $python - "$out/$name.json" "$out/$name-links.json" <<'PY'
import json, sys
result, links = (json.load(open(p)) for p in sys.argv[1:])
bytes_of = links["bytes"]["1024"]
for kind in ("node_out", "network_out"):
    result[kind + "_gb"] = sum(bytes_of[kind]) / 1e9
    rate = links["node_bytes_per_s" if kind == "node_out" else "network_bytes_per_s"]
    result[kind + "_busy"] = 100 * sum(bytes_of[kind]) / rate / result["step_time_s"]
result.setdefault("exposed_shared_fraction", 0)
json.dump(result, open(sys.argv[1], "w"))
PY
    results+=("$name=$out/$name.json")
  done
done
$python plots/table.py "${results[@]}" --fields \
  'step_time_s:step [s]:%.2f,exposed_comm_fraction:exposed all-to-all:%.4f,exposed_shared_fraction:exposed TP gathers:%.4f,bubble_fraction:bubble:%.3f,node_out_gb:NVLink out [GB]:%.0f,node_out_busy:NVLink busy:%.0f,network_out_gb:IB out [GB]:%.0f,network_out_busy:IB busy:%.0f'
