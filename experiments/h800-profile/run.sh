#!/usr/bin/env bash
# What the published profile says of the models behind the H800 calibration. usage: run.sh TRACE
# TRACE: train.json of github.com/deepseek-ai/profile-data.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$here/../..
trace=${1:?usage: run.sh TRACE}
out=${OUT:-out/h800-profile}
mkdir -p "$out"
rehearse=$root/build/rehearse
map=$root/topologies/h800-dualpipe.map.yaml
published=$root/topologies/h800-published.calibration.yaml

echo "== each layer told from the other three"
"$rehearse" calibrate "$here/pair.yaml" --from-trace "$trace" --map "$map" --leave-each-out

echo "== two ops fitted (mlp.F, combine.B), the other eight told from published stand-alone figures"
"$rehearse" calibrate "$here/pair.yaml" --from-trace "$trace" --map "$map" --only mlp.F,combine.B \
  --published "$published" --out "$out/two-ops.calibration.yaml" > "$out/two-ops.txt"
"$rehearse" calibrate "$here/pair.yaml" --from-trace "$trace" --map "$map" --judge "$out/two-ops.calibration.yaml"

echo "== the pair by the calibration that comes along, as a timeline"
"$rehearse" simulate "$here/pair.yaml" --pair --calibration "$root/topologies/h800-dualpipe.calibration.yaml" \
  --timeline "$out/pair.json" --ranks 0
