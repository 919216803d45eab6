#!/usr/bin/env bash
# Checks and times the GPU kernels, and training, on this machine's GPU (compute capability 9.0).
# Kernels need the CUDA toolkit, CMake and a C++ compiler, nothing else; training the tarball of
# `make dist`, or a program that $REHEARSE names. In runs that fit ten minutes of a card each, those
# that tell most first:
#   1  builds; the smallest case of every kernel, each under a time limit, with waits that name their
#      barrier when they hang; then every small case and one large one in every tile shape
#   4  training on the card held against cores: gradients, losses in FP32 and BF16, the same bits twice,
#      checkpoints from one to the other and back
#   6  ranks that share the card: layouts held against one rank, between card and cores, 2,000 steps of
#      the demo's plan beside cores'
#   2  all of DeepSeek-V3's shapes, checked and timed, beside cuBLASLt where it is found
#   5  5,000 steps on the card: memory, speed beside two cores; a step under memcheck
#   3  compute-sanitizer's memcheck, racecheck and synccheck on small cases; Nsight Compute's figures
#      of three cases
# Results stream into the folder as JSON lines, so that a run that is cut off loses nothing. Ends with
# 1 when a check fails.
#   tools/gpu_check.sh [--out FOLDER] [RUN...]      (default: build/gpu, runs 1 4 6 2 5 3)
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/gpu
if [ "${1:-}" = --out ]; then out=$2; shift 2; fi
runs=("${@:-1 4 6 2 5 3}")
mkdir -p "$out"
generator=()
command -v ninja >/dev/null && generator=(-G Ninja)
failed=0

build() { # FOLDER [OPTION...]
  local folder=$1
  shift
  [ -f "$folder/CMakeCache.txt" ] || cmake -S kernels -B "$folder" "${generator[@]}" "$@" >/dev/null
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

# Training: the program, its text, the cores it may use, and one run of it.
pin=()
find_program() {
  unset CUBLAS_EMULATE_SINGLE_PRECISION CUBLAS_EMULATION_STRATEGY  # FP32 is to be FP32
  [ -n "${rehearse:-}" ] && return
  rehearse=${REHEARSE:-}
  text=${REHEARSE_TEXT:-build/king-james-bible.txt}
  if [ -z "$rehearse" ] && [ -f build-dist/rehearse.tar.gz ]; then
    mkdir -p "$out/dist"
    tar xzf build-dist/rehearse.tar.gz -C "$out/dist"
    rehearse=$out/dist/rehearse/bin/rehearse
    text=${REHEARSE_TEXT:-$out/dist/rehearse/text/book.txt}
  fi
  [ -x "$rehearse" ] || { echo "gpu_check.sh: no program: run 'make dist' where it builds and bring build-dist/rehearse.tar.gz, or name one in \$REHEARSE" >&2; exit 1; }
}
trains() { # NAME PLAN [OPTION...]: results under $out/NAME
  local name=$1 plan=$2
  shift 2
  timeout 280 "${pin[@]}" "$rehearse" train "experiments/card-equals-cores/$plan.yaml" --data "$text" \
    --out "$out/$name" --quiet "$@" >"$out/$name.log" 2>&1 ||
    { failed=1; echo "train $name failed:"; tail -5 "$out/$name.log" || true; }
}
holds() { # compare_runs.py's arguments: what a run that failed did not leave is a failure too
  tools/compare_runs.py "$@" | tee -a "$out/train.json" || failed=1
}
copied() { # FROM TO
  rm -rf "$2"
  cp -r "$1" "$2" || failed=1
}

if [ -z "${REHEARSE_CUBLASLT:-}" ]; then
  for f in /usr/local/cuda/lib64/libcublasLt.so.13 \
           $(python3 -c 'import nvidia; print(list(nvidia.__path__)[0])' 2>/dev/null)/*/lib/libcublasLt.so.13; do
    [ -e "$f" ] && export REHEARSE_CUBLASLT=$f && break
  done
fi
for run in ${runs[@]}; do
  case $run in
    1 | 2 | 3) build build/gpu ;;
  esac
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
        for tool in memcheck racecheck synccheck; do
          for case in "dense m129" "grouped gradient odd" "cast columns 144" rmsnorm attention \
                      "product of experts" gate "rows of experts"; do
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
    4)
      find_program
      "$rehearse" --version
      "$rehearse" inspect --capabilities | tail -1
      began "run 4: gradients of the first batch, FP32, card against cores"
      for on in cuda cpu; do
        trains "gradients-$on" fp32 --device $on --steps 0 --force \
          --dump-gradients "$out/gradients-$on.safetensors"
      done
      holds tensors "$out"/gradients-{cuda,cpu}.safetensors --largest 1e-4
      began "run 4: ten steps of FP32 (first loss 1e-6, all 1e-5), eight of BF16 (1e-3)"
      for on in cuda cpu; do
        trains "fp32-$on" fp32 --device $on --until 10 --checkpoint-every 5 --force
        trains "bf16-$on" plan --device $on --until 8 --force
      done
      holds log "$out"/fp32-{cuda,cpu}/log.jsonl --loss 1e-5 --first 1e-6
      holds log "$out"/bf16-{cuda,cpu}/log.jsonl --loss 1e-3
      began "run 4: the same bits twice"
      trains fp32-again fp32 --device cuda --until 10 --checkpoint-every 5 --force
      for f in "$out"/fp32-cuda/checkpoints/step-*/*.safetensors; do
        holds tensors "$f" "${f/fp32-cuda/fp32-again}" --same-bits
      done
      began "run 4: from the card's checkpoint on on cores, and from theirs on the card"
      for on in cuda cpu; do
        copied "$out/fp32-$on" "$out/resumed-$on"
        rm -rf "$out/resumed-$on"/checkpoints/step-*10
      done
      trains resumed-cuda fp32 --device cpu --until 10 --resume
      trains resumed-cpu fp32 --device cuda --until 10 --resume
      for on in cuda cpu; do holds log "$out"/{resumed-$on,fp32-cpu}/log.jsonl --loss 1e-5; done
      ;;
    6)
      find_program
      began "run 6: layouts on one card, FP32, ten steps, beside one rank on cores (1e-5)"
      trains fp32-cpu fp32 --device cpu --until 10 --force
      for plan in ep2 dualpipe pp4; do
        for again in "" -again; do
          trains "$plan$again" $plan --device cuda --until 10 --checkpoint-every 10 --force
        done
        holds log "$out"/{$plan,fp32-cpu}/log.jsonl --loss 1e-5
        for f in "$out/$plan"/checkpoints/step-*/*.safetensors; do
          holds tensors "$f" "${f/$out\/$plan/$out\/$plan-again}" --same-bits
        done
      done
      began "run 6: resumed in another layout, from the card on cores and back"
      copied "$out/dualpipe" "$out/resumed-on-cores"
      copied "$out/pp4" "$out/resumed-on-card"
      trains resumed-on-cores fp32 --device cpu --until 14 --resume
      trains resumed-on-card dualpipe --device cuda --until 14 --resume
      holds log "$out"/resumed-{on-card,on-cores}/log.jsonl --loss 1e-4
      began "run 6: 2,000 steps of the demo's plan"
      for on in cuda cpu; do
        timeout 280 "$rehearse" train experiments/demo/plan.yaml --data "$text" --device $on --steps 2000 \
          --out "$out/demo-$on" --force --quiet >"$out/demo-$on.log" 2>&1 || { failed=1; tail -5 "$out/demo-$on.log"; }
      done
      holds log "$out"/demo-{cuda,cpu}/log.jsonl --loss 0.05
      ;;
    5)
      find_program
      began "run 5: 5,000 steps"
      trains long plan --device cuda --steps 5000 --force
      pin=(taskset -c 0,1)
      trains two-cores plan --device cpu --until 20 --force
      pin=()
      python3 - "$out" <<'END' | tee -a "$out/train.json" || failed=1
import json, statistics, sys
def log(name):
    with open(f"{sys.argv[1]}/{name}/log.jsonl") as f:
        return [json.loads(line) for line in f]
card, cores = log("long"), log("two-cores")
speed = [statistics.median(s["tokens_per_s"] for s in of[2:]) for of in (card, cores)]
memory = [card[i]["activation_bytes"] for i in (99, -1)]
print(json.dumps({"what": "5,000 steps", "steps": len(card), "last_loss": card[-1]["loss"],
                  "activation_bytes_step_100": memory[0], "at_the_end": memory[1],
                  "tokens_per_s_card": speed[0], "tokens_per_s_cores": speed[1],
                  "times_faster": speed[0] / speed[1]}))
sys.exit(0 if memory[0] == memory[1] and len(card) == 5000 else 1)
END
      if command -v compute-sanitizer >/dev/null; then
        began "run 5: a step under memcheck"
        step train-memcheck timeout 200 compute-sanitizer --tool memcheck --report-api-errors no --error-exitcode 1 "$rehearse" train \
          experiments/card-equals-cores/plan.yaml --data "$text" --out "$out/memcheck" --until 1 --force --quiet
      fi
      ;;
    *) echo "gpu_check.sh: no run $run; there are 1 to 6" >&2; exit 2 ;;
  esac
done
exit $failed
