#!/usr/bin/env bash
# Simulates the plans of this folder; see README.md. usage: run.sh   (after `make build`)
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/overlap-at-scale
out=out/overlap-at-scale
python=/usr/bin/python3
mkdir -p "$out"
results=()
for schedule in dualpipe 1f1b; do
  for ep in 64 128 256 512; do
    build/rehearse simulate "$here/$schedule-ep$ep.yaml" --fold --calibration none --json --quiet >"$out/$schedule-ep$ep.json"
    results+=("$schedule EP$ep, $((ep * 32)) GPUs=$out/$schedule-ep$ep.json")
  done
done
$python plots/table.py "${results[@]}" --fields \
  'step_time_s:step [s]:%.3f,exposed_comm_fraction:exposed all-to-all:%.4f,bubble_fraction:bubble:%.3f,simulated_data_ranks:data ranks simulated:%d,sim_wall_s:simulated in [s]:%.2f'
$python plots/scale.py "${results[@]}" --out "$here/exposed.png"
echo "picture: $here/exposed.png"
