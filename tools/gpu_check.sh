#!/usr/bin/env bash
# Checks and times the GPU kernels on this machine's GPU (compute capability 9.0); needs the CUDA
# toolkit, CMake and a C++ compiler, nothing else. Writes check.json, sanitizer.log and bench.json
# into the folder given (default: build/gpu). Ends with 1 when a check fails.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/gpu}
mkdir -p "$out"
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
cmake -S kernels -B build/gpu "${generator[@]}" >/dev/null
cmake --build build/gpu --parallel >"$out/build.log" 2>&1 || { cat "$out/build.log"; exit 1; }

echo "== checks"
failed=0
build/gpu/kernels_check --json "$out/check.json" || failed=1

echo "== times"
build/gpu/kernels_bench --json "$out/bench.json" || failed=1

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
if [ -n "$sanitizer" ]; then
  : >"$out/sanitizer.log"
  for tool in memcheck initcheck synccheck racecheck; do
    echo "== compute-sanitizer $tool"
    # A sample of the small cases: under it every one takes a hundred times longer.
    for case in "dense m300" "grouped odd" "gradient m200" "grouped gradient odd" "cast"; do
      timeout 300 "$sanitizer" --tool "$tool" --error-exitcode 1 \
        build/gpu/kernels_check --small --only "$case" >>"$out/sanitizer.log" 2>&1 || {
        echo "compute-sanitizer $tool: '$case' failed, see $out/sanitizer.log"; failed=1; }
    done
  done
else
  echo "compute-sanitizer: not found, skipped"
fi

exit $failed
