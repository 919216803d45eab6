#!/bin/sh
# Some forty megabytes of English text: the documentation of Linux and of Perl, from Debian's packages.
# usage: text.sh OUT.txt (needs apt-get; installs nothing)
set -eu
out=$(realpath -m "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get download -qq linux-doc-6.1 perl-doc 2> apt.log || { cat apt.log >&2; exit 1; }
for package in *.deb; do dpkg-deb -x "$package" all; done
find all -name '*.rst.txt' -not -path '*translations*' -print0 | sort -z | xargs -0 cat > text
find all -name '*.pod' -print0 | sort -z | xargs -0 cat >> text
mkdir -p "$(dirname "$out")"
mv text "$out"
wc -c "$out"
