#!/usr/bin/env bash
# Predicts and runs the three schedules of this folder on the emulated cluster; see README.md.
# usage: experiments/overlap/run.sh TEXT   (after `make build`; TEXT is any text of some 100 kB)
set -euo pipefail
text=$(realpath "${1:?a text file, such as build/king-james-bible.txt}")
cd "$(dirname "$0")/../.."
for schedule in 1f1b zb1p dualpipe; do
  plan=experiments/overlap/$schedule.yaml
  build/rehearse train "$plan" --data "$text" --out "out/overlap/$schedule" --force >/dev/null
  echo "== $schedule"
  build/rehearse compare "$plan" --measured "out/overlap/$schedule/timeline.json"
done
