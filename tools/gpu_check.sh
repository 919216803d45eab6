#!/usr/bin/env bash
# Checks and times the GPU kernels on this machine's GPU (compute capability 9.0); needs the CUDA
# toolkit, CMake and a C++ compiler, nothing else. In runs that fit a few minutes of a card each:
#   1  builds; the smallest case of every kernel, each under a time limit, with waits that name their
#      barrier when they hang; then every small case and one large one in every tile shape
#   2  all of DeepSeek-V3's shapes, checked and timed, beside cuBLASLt where it is found
#   3  compute-sanitizer's memcheck and synccheck on small cases; Nsight Compute's figures of three cases
# Results stream into the folder as JSON lines, so that a run that is cut off loses nothing. Ends with
# 1 when a check fails.
#   tools/gpu_check.sh [--out FOLDER] [RUN...]      (default: build/gpu, runs 1 2 3)
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/gpu
if [ "${1:-}" = --out ]; then out=$2; shift 2; fi
runs=("${@:-1 2 3}")
mkdir -p "$out"
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
failed=0

build() { # FOLDER [OPTION...]
  local folder=$1
  shift
  [ -x "$folder/kernels_bench" ] && [ -x "$folder/kernels_check" ] && return
  cmake -S kernels -B "$folder" "${generator[@]}" "$@" >/dev/null
  cmake --build "$folder" --parallel >"$out/build.log" 2>&1 || { cat "$out/build.log"; exit 1; }
}
began() { echo "== $* ($(date +%T))"; }
# What a step that went wrong said, and how it ended.
step() { # NAME COMMAND...
  local log="$out/$1.log"
  shift
  "$@" >"$log" 2>&1 || failed=1
  grep -v '^ok ' "$log" || true
}

if [ -z "${REHEARSE_CUBLASLT:-}" ]; then
  for f in /usr/local/cuda/lib64/libcublasLt.so.13 \
           $(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)/*/lib/libcublasLt.so.13; do
    [ -e "$f" ] && export REHEARSE_CUBLASLT=$f && break
  done
fi
build build/gpu
for run in ${runs[@]}; do
  case $run in
    1)
      build build/gpu-hangs -DREHEARSE_TRAP_HANGS=ON
      began "run 1: first checks, every kernel's smallest case"
      step first build/gpu-hangs/kernels_check --first --limit 12 --json "$out/first.json"
      began "run 1: small cases, and a large one in every tile shape"
      step check build/gpu/kernels_check --limit 15 --json "$out/check.json"
      ;;
    2)
      began "run 2: DeepSeek-V3's shapes"
      step bench build/gpu/kernels_bench --limit 30 --json "$out/bench.json"
      ;;
    3)
      sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
      if [ -n "$sanitizer" ]; then
        for tool in memcheck synccheck; do
          for case in "dense m129" "grouped gradient odd" "cast columns 144"; do
            began "run 3: $tool, $case"
            step "$tool" timeout 100 "$sanitizer" --target-processes all --tool "$tool" --error-exitcode 1 \
              build/gpu/kernels_check --small --limit 90 --only "$case"
          done
        done
      else
        echo "compute-sanitizer: not found, skipped"
      fi
      if command -v ncu >/dev/null; then
        for case in "dense m4096 n2112" "dense m4096 n7168 k16384" "gradient m16384 n7168 tokens4096"; do
          began "run 3: Nsight Compute, $case"
          timeout 60 ncu --clock-control none --target-processes all --launch-count 2 \
            --metrics sm__inst_executed_pipe_tensor.avg.pct_of_peak_sustained_active,l1tex__data_pipe_lsu_wavefronts_mem_shared.avg.pct_of_peak_sustained_active,l1tex__data_bank_reads.avg.pct_of_peak_sustained_active,lts__t_sectors.avg.pct_of_peak_sustained_elapsed,dram__throughput.avg.pct_of_peak_sustained_elapsed \
            --section SpeedOfLight build/gpu/kernels_bench --once --only "$case" 2>&1 |
            tee "$out/ncu.log" | grep -E 'kernel|nvjet|Throughput|avg' || echo "no figures: see $out/ncu.log"
        done
      else
        echo "ncu: not found, skipped"
      fi
      ;;
    *) echo "gpu_check.sh: no run $run; there are 1, 2 and 3" >&2; exit 2 ;;
  esac
done
exit $failed
