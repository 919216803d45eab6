#!/usr/bin/env bash
# The budget, and what moves it: prints two tables and writes out/deepseek-v3-budget/*.json and a picture.
# About 10 minutes on two cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
out=${OUT:-out/deepseek-v3-budget}
mkdir -p "$out"
rehearse=$root/build/rehearse
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The plan without its phases (and, where it says so, changed), simulated in full.
step() {  # name, sed expression on the plan, sed expression on the cluster, options
  sed -e '/^  phases:/,$d' -e 's/cluster: h800-2048.yaml/cluster: cluster.yaml/' -e "$2" "$here/plan.yaml" > "$work/plan.yaml"
  sed -e "$3" "$root/topologies/h800-2048.yaml" > "$work/cluster.yaml"
  "$rehearse" simulate "$work/plan.yaml" --json --threads 2 ${4:-} > "$out/$1.json"
}

"$rehearse" simulate "$here/plan.yaml" --json --threads 2 > "$out/budget.json"
step as-planned "" ""
step half-network "" 's/bandwidth: 47 GB/bandwidth: 23.5 GB/'
step 40-sms "" 's/communication_sms: 20/communication_sms: 40/'
step double-skew 's/skew: 0.15/skew: 0.30/' ""
step products-20-percent "" "" "--scale product=1.2"
step no-skew 's/skew: 0.15/skew: 0/' ""
step balanced '/^expert_load:/,/^  seed/d' ""
step even-layers '/layers_per_stage/d' ""
step last-stage-3 's/\[3, 4, 4/[2, 4, 4/; s/4, 2\]/4, 3]/' ""
step last-stage-1 's/\[3, 4, 4/[4, 4, 4/; s/4, 2\]/4, 1]/' ""
step zb1p 's/schedule: dualpipe/schedule: zb1p/' ""
step data-20-percent "" "" "--scale data=1.2"
step attention-20-percent "" "" "--scale attention=1.2"
step casts-20-percent "" "" "--scale cast=1.2"

/usr/bin/python3 "$root/plots/budget.py" "$out" --picture "$here/responses.png"
