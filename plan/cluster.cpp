#include "plan/cluster.h"

#include <algorithm>

#include <sched.h>

#include "base/yaml.h"

namespace rehearse {
namespace {

Link read_link(YamlMap& map) {
  Link link;
  link.bandwidth = map.rate("bandwidth");
  link.latency = map.duration("latency");
  return link;
}

void read_gpu(YamlMap& device, Cluster& c) {
  if (device.has("peak_fp8")) c.peak_fp8 = device.flop_rate("peak_fp8");
  c.sms = device.integer("sms", {.min = 1, .max = 10'000}, c.sms);
  c.communication_sms = device.integer(
      "communication_sms", {.min = 1, .max = c.sms}, std::min(c.sms, c.communication_sms));
  if (c.communication_sms == c.sms && c.sms > 1) {
    device.fail("communication_sms", "communication must leave SMs for computation");
  }
  if (device.has("copy_per_sm")) {
    c.copy_per_sm = device.rate("copy_per_sm");
  }
}

void read_fault(YamlMap fault, Cluster& c) {
  const IntegerRange devices{.min = 0, .max = c.devices() - 1};
  if (fault.has("link")) {
    std::vector<std::string> ends;
    const std::string text = fault.text("link");
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find(' ', at), text.size());
      if (end > at) ends.push_back(text.substr(at, end - at));
      at = end + 1;
    }
    if (ends.size() != 2) {
      fault.fail("link", "expected two switches, such as \"plane0/leaf1 plane0/spine2\"");
    }
    const int64_t cables = fault.integer("cables", {.min = 1, .max = 100'000}, 0);
    c.fabric = laid_out(std::move(c.fabric));
    fail_link(c.fabric, ends[0], ends[1], cables, fault.place("link"));
  } else if (fault.has("nic")) {
    const int64_t device = fault.integer("nic", devices);
    const BytesPerSecond rate = fault.rate("bandwidth");
    if (!c.network) fault.fail("nic", "this cluster has no network");
    c.slow_nics[device] = rate;
  } else if (fault.has("device")) {
    c.slow_devices[fault.integer("device", devices)] =
        fault.number("speed", {.min = 1e-6, .max = 1000});
  } else {
    fault.place().fail("faults", "expected a fault with one of the keys 'link', 'nic', 'device'");
  }
  fault.finish();
}

}  // namespace

int64_t host_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return CPU_COUNT(&set);
}

namespace {

Cluster read_cluster(YamlMap top) {
  Cluster c;
  c.name = top.text("name");
  c.nodes = top.integer("nodes", {.min = 1, .max = 1'000'000});
  c.devices_per_node = top.integer("devices_per_node", {.min = 1, .max = 100'000});

  YamlMap device = top.map("device");
  c.device = device.choice("kind", kDeviceKinds);
  if (c.on_cores()) {
    c.on_host = device.text("cores") == "host";
    c.cores = c.on_host ? host_cores() : device.integer("cores", {.min = 1, .max = 100'000});
    c.peak = device.flop_rate("peak_per_core");
  } else {
    c.peak = device.flop_rate("peak");
  }
  c.memory_bandwidth = device.rate("memory_bandwidth");
  c.memory = device.bytes("memory");
  if (c.of_gpus()) read_gpu(device, c);
  device.finish();

  if (top.has("node_link") || !c.on_cores()) {
    YamlMap link = top.map("node_link");
    c.node_link = read_link(link);
    link.finish();
  }
  if (top.has("network")) {
    YamlMap network = top.map("network");
    c.network = read_link(network);
    if (network.has("fabric")) {
      c.fabric =
          read_fabric(network.map("fabric"), {c.nodes, c.devices_per_node, c.network->bandwidth});
    }
    network.finish();
  }
  if (top.has("faults")) {
    if (!c.of_gpus()) top.fail("faults", "only clusters of GPUs can have faults");
    for (YamlMap& fault : top.maps("faults")) read_fault(fault, c);
  }
  // Generated fabrics join all devices, unless cables fail.
  const bool stated = c.fabric.kind != FabricKind::kIdeal && !c.fabric.shape;
  const std::string unreachable =
      stated ? check_reachable(c.fabric, {c.nodes, c.devices_per_node, BytesPerSecond()}) : "";
  if (!unreachable.empty()) top.fail("network", unreachable);
  if (c.nodes > 1 && !c.network) {
    top.place("nodes").fail(
        "nodes", "several nodes need a key 'network' with the bandwidth and latency between them");
  }
  top.finish();
  return c;
}

}  // namespace

Cluster load_cluster(const std::string& path) {
  return read_cluster(YamlFile::load(path).root());
}

Cluster parse_cluster(std::string text, const std::string& path) {
  return read_cluster(YamlFile::parse(std::move(text), path).root());
}

}  // namespace rehearse
