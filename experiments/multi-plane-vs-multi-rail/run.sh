#!/usr/bin/env bash
# Simulates the plan on two fabrics, whole and impaired; see README.md. usage: run.sh   (after `make build`)
set -euo pipefail
cd "$(dirname "$0")/../.."
here=experiments/multi-plane-vs-multi-rail
out=out/multi-plane-vs-multi-rail
python=/usr/bin/python3
mkdir -p "$out"
# A variant: lines to put below switch_ports, and a fault to append.
variant() {
  local name=$1 base=$2 setting=$3 fault=$4
  { sed "s|^    switch_ports: 64|&${setting:+\n    $setting}|" "topologies/$base.yaml"
    [ -z "$fault" ] || printf 'faults:\n  - %s\n' "$fault"; } >"$out/$name-cluster.yaml"
  sed "s|^cluster:.*|cluster: $name-cluster.yaml|" "$here/plan.yaml" >"$out/$name.yaml"
  build/rehearse simulate "$out/$name.yaml" --calibration none --json --quiet >"$out/$name.json"
  results+=("$name=$out/$name.json")
}
results=()
for fabric in multi-plane multi-rail; do
  base=h800-2048
  link="{link: plane0/leaf0 plane0/spine0}"
  if [ $fabric = multi-rail ]; then
    base=h800-2048-multi-rail
    link="{link: pod0/leaf0 pod0/spine0}"
  fi
  variant "$fabric" $base '' ''
  variant "$fabric-static-routing" $base 'routing: static' ''
  variant "$fabric-2-to-1" $base 'oversubscription: 2' ''
  variant "$fabric-4-to-1" $base 'oversubscription: 4' ''
  variant "$fabric-link-failed" $base '' "$link"
  variant "$fabric-slow-nic" $base '' '{nic: 0, bandwidth: 23.5 GB/s}'
done
$python plots/table.py "${results[@]}" --fields \
  'step_time_s:step [s]:%.4f,exposed_comm_fraction:exposed all-to-all:%.4f,exchange_wait_fraction:waiting in all-to-alls:%.4f,breakdown_mean_s.optimizer:end of step [s]:%.4f,sim_wall_s:simulated in [s]:%.1f'
$python plots/scale.py "${results[@]}" --out "$here/fabrics.png"
echo "picture: $here/fabrics.png"
