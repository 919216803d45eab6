#include "plan/cluster.h"

#include <sched.h>

#include "base/yaml.h"

namespace rehearse {
namespace {

Link read_link(YamlMap map) {
  Link link;
  link.bandwidth = map.rate("bandwidth");
  if (link.bandwidth.value() <= 0) map.fail("bandwidth", "expected a rate above 0");
  link.latency = map.duration("latency");
  map.finish();
  return link;
}

FlopsPerSecond positive_flops(YamlMap& map, std::string_view key) {
  const FlopsPerSecond rate = map.flop_rate(key);
  if (rate.value() <= 0) map.fail(key, "expected a rate above 0");
  return rate;
}

}  // namespace

int64_t host_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return CPU_COUNT(&set);
}

Cluster load_cluster(const std::string& path) {
  YamlMap top = YamlFile::load(path).root();
  Cluster c;
  c.name = top.text("name");
  c.nodes = top.integer("nodes", {.min = 1, .max = 1'000'000});
  c.devices_per_node = top.integer("devices_per_node", {.min = 1, .max = 100'000});

  YamlMap device = top.map("device");
  c.device = device.choice<DeviceKind>(
      "kind",
      {{"cpu", DeviceKind::kCpu}, {"gpu", DeviceKind::kGpu}, {"emulated", DeviceKind::kEmulated}});
  if (c.device == DeviceKind::kCpu) {
    c.on_host = device.text("cores") == "host";
    c.cores = c.on_host ? host_cores() : device.integer("cores", {.min = 1, .max = 100'000});
    c.peak = positive_flops(device, "peak_per_core");
  } else {
    c.peak = positive_flops(device, "peak");
  }
  c.memory_bandwidth = device.rate("memory_bandwidth");
  if (c.memory_bandwidth.value() <= 0) device.fail("memory_bandwidth", "expected a rate above 0");
  c.memory = device.bytes("memory");
  device.finish();

  if (top.has("node_link") || c.device != DeviceKind::kCpu) {
    c.node_link = read_link(top.map("node_link"));
  }
  if (top.has("network")) c.network = read_link(top.map("network"));
  if (c.nodes > 1 && !c.network) {
    top.place("nodes").fail(
        "nodes", "several nodes need a key 'network' with the bandwidth and latency between them");
  }
  top.finish();
  return c;
}

}  // namespace rehearse
