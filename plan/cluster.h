#pragma once
// A cluster: nodes of equal devices, a link among the devices of a node and one between nodes.

#include <map>
#include <optional>
#include <string>

#include "base/names.h"
#include "base/units.h"
#include "plan/fabric.h"

namespace rehearse {

enum class DeviceKind : uint8_t {
  kCpu,  // cores of this machine, shared by a node's ranks
  kGpu,
  kEmulated,  // cores of this machine that hold each op for its roofline time at `peak`, and links
              // that take their time without taking cores: a small cluster on the wall's clock
};

inline constexpr NameTable kDeviceKinds{std::to_array<Named<DeviceKind>>(
    {{DeviceKind::kCpu, "cpu"}, {DeviceKind::kGpu, "gpu"}, {DeviceKind::kEmulated, "emulated"}})};
static_assert(kDeviceKinds.complete());

struct Link {
  BytesPerSecond bandwidth;  // per device and direction
  Duration latency;
};

struct Cluster {
  std::string name;
  DeviceKind device = DeviceKind::kCpu;
  int64_t nodes = 1;
  int64_t devices_per_node = 1;  // ranks a node can take; on a CPU node they share its cores
  int64_t cores = 0;             // per node, kCpu only; of all nodes together when on_host
  bool on_host = false;          // kCpu: all nodes are this machine and share its cores
  FlopsPerSecond peak;           // per core (kCpu) or device (kGpu: BF16, dense)
  std::optional<FlopsPerSecond> peak_fp8;  // kGpu; none: it has no FP8 tensor cores
  BytesPerSecond memory_bandwidth;         // per core or device
  Bytes memory;                            // per node (kCpu) or device (kGpu)
  std::optional<Link> node_link;  // between devices of one node; none: they share its memory
  std::optional<Link> network;    // per device, between nodes; needed when nodes > 1
  Fabric fabric;                  // the switches of that network
  // kGpu: streaming multiprocessors, those that communication kernels hold while they run, and the
  // bytes that one of these moves in all: read from memory to be sent, forwarded, or put in place.
  int64_t sms = 132;
  int64_t communication_sms = 20;
  std::optional<BytesPerSecond> copy_per_sm;  // none: links alone limit an all-to-all
  // What is broken, by device: the bandwidth of its NIC, and its speed (1: as stated).
  std::map<int64_t, BytesPerSecond> slow_nics;
  std::map<int64_t, double> slow_devices;

  int64_t devices() const { return nodes * devices_per_node; }
  int64_t node_of(int64_t d) const { return d / devices_per_node; }
  bool same_node(int64_t a, int64_t b) const { return node_of(a) == node_of(b); }
  // What kind of devices; every branch on the kind asks one of these.
  bool on_cores() const { return device == DeviceKind::kCpu; }
  bool of_gpus() const { return device == DeviceKind::kGpu; }
  bool emulated() const { return device == DeviceKind::kEmulated; }
  // Whether messages between some ranks take time on a link.
  bool linked() const { return node_link || network; }
  // Whether all devices and NICs are alike.
  bool uniform() const { return slow_nics.empty() && slow_devices.empty(); }
  double speed(int64_t d) const {
    const auto slow = slow_devices.find(d);
    return slow == slow_devices.end() ? 1 : slow->second;
  }
};

// Throws InputError. `cores: host` means the processors this process may use, for all nodes.
Cluster load_cluster(const std::string& path);
// The same of text in memory; `path` names it in errors.
Cluster parse_cluster(std::string text, const std::string& path);

// Processors this process may use.
int64_t host_cores();

}  // namespace rehearse
