#!/usr/bin/env bash
# Installs what building, testing and the demo need, on Debian 12 or Ubuntu 24.04 and later. Does
# nothing, quickly, when all of it is there. CUDA is used where it is found and is not installed.
set -euo pipefail

packages=(
  g++ cmake ninja-build make git
  libboost-program-options-dev libeigen3-dev libfmt-dev libopenblas-dev libyaml-cpp-dev
  nlohmann-json3-dev zlib1g-dev libhdf5-dev
  libboost-graph-dev libboost-context-dev
  coinor-libclp-dev
  libgtest-dev libbenchmark-dev libsimgrid-dev
  libopenmpi-dev openmpi-bin libjs-chart.js
  python3 python3-matplotlib
  bible-kjv
)
# For a test of pages alone, which is skipped without them: Ubuntu has Chromium as a snap.
wanted=(chromium chromium-driver python3-selenium)

installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null || true)" = installed ]
}
missing=()
for p in "${packages[@]}"; do installed "$p" || missing+=("$p"); done
for p in "${wanted[@]}"; do
  # They are asked for where apt has them.
  if ! installed "$p" && grep -q '^ID=debian' /etc/os-release; then missing+=("$p"); fi
done
[ ${#missing[@]} -eq 0 ] && exit 0

sudo=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "setup: run as root or install: ${missing[*]}" >&2; exit 1; }
  sudo=(sudo)
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${sudo[@]}" apt-get update -q >/dev/null
"${sudo[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
