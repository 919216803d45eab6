#!/usr/bin/env bash
# Calibrates this machine on a grid of shapes, predicts every plan of this folder, then runs it; see README.md.
# usage: experiments/cpu-validation/run.sh [TEXT]   (after `make build`; TEXT is any text of some 100 kB; without it
# the King James Bible of package bible-kjv, as in `make demo`)
set -euo pipefail
text=$(realpath "${1:-/dev/null}")
cd "$(dirname "$0")/../.."
if [ "$text" = /dev/null ]; then
  make -s build/king-james-bible.txt
  text=build/king-james-bible.txt
fi
exec build/rehearse validate experiments/cpu-validation/[01]*.yaml --data "$text" --out out/cpu-validation
