#!/usr/bin/env bash
# Simulates the five schedules of this folder; see README.md. usage: run.sh   (after `make build`)
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/dualpipe-vs-others
out=out/dualpipe-vs-others
python=/usr/bin/python3
mkdir -p "$out"
results=() timelines=()
for schedule in 1f1b interleaved-1f1b zb1p dualpipe dualpipev; do
  build/rehearse simulate "$here/$schedule.yaml" --fold --calibration none --json --quiet \
    --ranks 0,64,128,192,256,320,384,448 --timeline "$out/$schedule.timeline.json" >"$out/$schedule.json"
  results+=("$schedule=$out/$schedule.json")
  timelines+=("$schedule=$out/$schedule.timeline.json")
done
$python plots/table.py "${results[@]}" --fields \
  'step_time_s:step [s]:%.3f,bubble_fraction:bubble:%.3f,exposed_comm_fraction:exposed communication:%.3f,max:memory_bytes.*.parameters:parameters [B]:%.3g,max:memory_bytes.*.activations:activations [B]:%.3g,max:memory_bytes.*.total:total [B]:%.3g'
$python plots/pipeline.py "${timelines[@]}" --out "$here/pipeline.png"
echo "picture: $here/pipeline.png"
