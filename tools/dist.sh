#!/usr/bin/env bash
# A tarball that runs on another x86-64 Linux (glibc 2.36 or newer: Debian 12, Ubuntu 24.04) without
# anything installed there: the program and the libraries that it was linked with, models, topologies,
# the demo's plan and text, and what tools/gpu_check.sh needs. The CUDA runtime is linked statically;
# the driver, and cuBLASLt where it is to be used, are that machine's. MPI stays away: it belongs to
# the machine it runs on.
#   tools/dist.sh [--out FILE.tar.gz] [--text FILE]      (default: build-dist/rehearse.tar.gz)
set -euo pipefail
cd "$(dirname "$0")/.."
most=$((48 * 1000 * 1000))
out=build-dist/rehearse.tar.gz
text=build/king-james-bible.txt
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=$2; shift 2 ;;
    --text) text=$2; shift 2 ;;
    *) echo "dist.sh: unknown argument $1; it takes --out FILE and --text FILE" >&2; exit 2 ;;
  esac
done
[ -s "$text" ] || { echo "dist.sh: no text $text: 'make demo' writes it, --text names another" >&2; exit 1; }

cmake --preset dist >/dev/null
cmake --build build-dist --target rehearse
folder=$PWD/build-dist/package/rehearse
rm -rf "$folder"
cmake --install build-dist --prefix "$folder" --strip >/dev/null
mkdir -p "$folder/lib" "$folder/share/rehearse/experiments" "$folder/text"
# All but the system's own: whatever else the loader finds here.
ldd "$folder/bin/rehearse" | awk '$3 ~ /^\// {print $3}' |
  grep -vE '/(ld-linux|libc|libm|libdl|librt|libpthread|libresolv)[.-]' |
  while read -r library; do
    cp -L "$library" "$folder/lib/"
    strip --strip-unneeded "$folder/lib/$(basename "$library")" 2>/dev/null || true
  done
cp -r experiments/demo experiments/card-equals-cores "$folder/share/rehearse/experiments/"
cp "$text" "$folder/text/book.txt"
cp LICENSE README.md "$folder/"
mkdir -p "$(dirname "$out")"
tar czf "$out.part" -C build-dist/package rehearse
size=$(stat -c %s "$out.part")
if [ "$size" -gt "$most" ]; then
  rm "$out.part"
  echo "dist.sh: $size bytes, over the $most that a bare machine takes" >&2
  exit 1
fi
mv "$out.part" "$out"
echo "$out: $size bytes; there: tar xzf $(basename "$out") && rehearse/bin/rehearse --version"
