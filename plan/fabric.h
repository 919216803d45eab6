#pragma once
// The switches between nodes: what a topology file states in a few words, and the switches and
// cables that follow from it.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/units.h"
#include "base/yaml.h"

namespace rehearse {

enum class FabricKind : uint8_t {
  kIdeal,              // no switch is ever the bottleneck: NICs alone
  kSingleSwitch,       // all NICs on one switch
  kFatTree,            // two layers; the NICs of a node share a leaf switch
  kMultiPlaneFatTree,  // NIC i of every node in network i, each a two-layer fat tree of its own
  kMultiRailFatTree,   // three layers; NIC i of the nodes of a pod on the pod's leaf switch i
  kCustom,             // switches and links one by one
};

inline constexpr NameTable kFabricKinds{std::to_array<Named<FabricKind>>({
    {FabricKind::kIdeal, "ideal"},
    {FabricKind::kSingleSwitch, "single_switch"},
    {FabricKind::kFatTree, "fat_tree"},
    {FabricKind::kMultiPlaneFatTree, "multi_plane_fat_tree"},
    {FabricKind::kMultiRailFatTree, "multi_rail_fat_tree"},
    {FabricKind::kCustom, "custom"},
})};
static_assert(kFabricKinds.complete());

struct Switch {
  std::string name;
  Duration latency;
};

// All cables between two switches, as one link per direction.
struct SwitchLink {
  size_t a = 0, b = 0;  // switches
  BytesPerSecond bandwidth;
  int64_t cables = 1;
};

// What every cluster says about its network besides the fabric.
struct FabricSetting {
  int64_t nodes = 1;
  int64_t devices_per_node = 1;
  BytesPerSecond nic;  // also of a cable between switches
};

// What the switches and cables of the generated kinds follow from.
struct FabricShape {
  FabricSetting setting;
  Duration latency;          // of a switch
  int64_t ports = 0;         // of a switch
  int64_t down = 0, up = 0;  // ports of a leaf switch
};

struct Fabric {
  FabricKind kind = FabricKind::kIdeal;
  bool adaptive = true;  // packets spread evenly over all shortest paths; else each destination has
                         // one path (destination modulo ways, as InfiniBand's fat-tree routing)
  std::optional<FabricShape> shape;  // of a generated kind, until it is laid out
  std::vector<Switch> switches;
  std::vector<SwitchLink> links;
  std::vector<size_t> attached;  // switch of each device's NIC
};

// Reads the mapping `fabric` of a topology file. Throws InputError.
Fabric read_fabric(YamlMap map, const FabricSetting& setting);

// With its switches and cables. devices: only what the first so many can reach each other by, so
// that a few devices of a large cluster cost no more than those of a small one; none: all.
Fabric laid_out(Fabric fabric, std::optional<int64_t> devices = {});

// Takes cables away from a fabric that is laid out. Throws InputError, at `place`, when the fabric
// has no such switches or fewer cables between them. cables: 0 means all of them.
void fail_link(Fabric& fabric,
               const std::string& a,
               const std::string& b,
               int64_t cables,
               const SourcePlace& place);

// The network each switch belongs to: switches that reach each other have one number.
std::vector<size_t> networks_of(const Fabric& fabric);

// Of a fabric that is laid out: empty when every device can reach every other, if need be over a
// device of its own node that is on the other's network; else a sentence that names two that
// cannot.
std::string check_reachable(const Fabric& fabric, const FabricSetting& setting);

}  // namespace rehearse
