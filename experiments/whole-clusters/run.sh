#!/usr/bin/env bash
# Benchmarks whole-cluster simulations on one core; see README.md. usage: run.sh   (after `make build`)
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/whole-clusters
out=out/whole-clusters
python=/usr/bin/python3
mkdir -p "$out"
results=()
run() {  # name, plan, options
  local name=$1 plan=$2
  shift 2
  taskset -c 0 build/rehearse simulate "$plan" --calibration none --json --quiet "$@" >"$out/$name.json"
  results+=("$name=$out/$name.json")
}
run folded experiments/deepseek-v3/plan.yaml --fold
run a1-memoised experiments/deepseek-v3/plan.yaml
run a1-not-memoised experiments/deepseek-v3/plan.yaml --no-memo
run a1-skewed-alike "$here/all-alike-skewed.yaml"
run a2-all-different "$here/all-different.yaml"
run b-eight-times "$here/eight-times.yaml"
$python plots/table.py "${results[@]}" --fields \
  'ops:ops:%d,simulated_ops:simulated:%d,sim_wall_s:time [s]:%.2f,sim_peak_memory_bytes:peak memory [B]:%.3g,all_to_alls.alone:all-to-alls alone:%d,all_to_alls.remembered:remembered:%d,all_to_alls.disturbed:disturbed:%d,step_time_s:step [s]:%.3f'
