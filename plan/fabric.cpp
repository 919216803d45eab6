#include "plan/fabric.h"

#include <algorithm>
#include <map>
#include <set>

#include <boost/graph/adjacency_list.hpp>
#include <boost/graph/connected_components.hpp>
#include <fmt/format.h>

namespace rehearse {
namespace {

// Lays switches and cables; parallel cables between two switches are one link.
class SwitchLayer {
 public:
  SwitchLayer(Fabric& fabric, BytesPerSecond cable, Duration latency)
      : fabric_(fabric), cable_(cable), latency_(latency) {}

  size_t add(const std::string& name) {
    fabric_.switches.push_back({name, latency_});
    return fabric_.switches.size() - 1;
  }
  void connect(size_t a, size_t b, int64_t cables) {
    if (cables == 0) return;
    fabric_.links.push_back(
        {a, b, BytesPerSecond(cable_.value() * static_cast<double>(cables)), cables});
  }
  // `cables` of `from` over `to`, as evenly as they go; the odd ones begin at `turn`.
  void spread(size_t from, const std::vector<size_t>& to, int64_t cables, size_t turn) {
    const auto n = static_cast<int64_t>(to.size());
    for (int64_t i = 0; i < n; ++i) {
      const int64_t place = (i + n - static_cast<int64_t>(turn) % n) % n;
      connect(from, to[static_cast<size_t>(i)], cables / n + (place < cables % n ? 1 : 0));
    }
  }

 private:
  Fabric& fabric_;
  BytesPerSecond cable_;
  Duration latency_;
};

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// A network of two layers, or one leaf switch, for `endpoints` NICs: the leaves of the first `used`
// of them. Returns those leaves.
std::vector<size_t> two_layers(SwitchLayer& layer,
                               const std::string& prefix,
                               const FabricShape& shape,
                               int64_t down,
                               int64_t endpoints,
                               int64_t used) {
  const int64_t leaves = divide_up(endpoints, down);
  std::vector<size_t> leaf_ids, spine_ids;
  for (int64_t i = 0; i < divide_up(used, down); ++i) {
    leaf_ids.push_back(layer.add(fmt::format("{}leaf{}", prefix, i)));
  }
  if (leaves == 1) return leaf_ids;
  for (int64_t i = 0; i < divide_up(leaves * shape.up, shape.ports); ++i) {
    spine_ids.push_back(layer.add(fmt::format("{}spine{}", prefix, i)));
  }
  for (size_t i = 0; i < leaf_ids.size(); ++i) layer.spread(leaf_ids[i], spine_ids, shape.up, i);
  return leaf_ids;
}

// Three layers: a pod is `down` nodes with a leaf switch per rail; the spines of a pod join its
// leaves, and spine s of every pod meets the others in the core switches of group s.
void multi_rail(SwitchLayer& layer, Fabric& fabric, const FabricShape& shape, int64_t devices) {
  const int64_t pods = divide_up(shape.setting.nodes, shape.down);
  const int64_t rails = shape.setting.devices_per_node;
  const int64_t used_pods = divide_up(divide_up(devices, rails), shape.down);
  const int64_t spine_down = shape.ports / 2;
  const int64_t spines = pods == 1 && rails == 1 ? 0 : divide_up(rails * shape.up, spine_down);
  const int64_t spine_up = shape.ports - spine_down;
  std::vector<std::vector<size_t>> spine_ids;  // by pod
  std::vector<std::vector<size_t>> leaf_ids;
  for (int64_t p = 0; p < used_pods; ++p) {
    spine_ids.emplace_back();
    leaf_ids.emplace_back();
    for (int64_t r = 0; r < rails; ++r) {
      leaf_ids.back().push_back(layer.add(fmt::format("pod{}/leaf{}", p, r)));
    }
    for (int64_t i = 0; i < spines; ++i) {
      spine_ids.back().push_back(layer.add(fmt::format("pod{}/spine{}", p, i)));
    }
    for (size_t r = 0; r < leaf_ids.back().size() && spines > 0; ++r) {
      layer.spread(leaf_ids.back()[r], spine_ids.back(), shape.up, r);
    }
  }
  // Within one pod no shortest path leads over the cores.
  if (used_pods > 1) {
    const int64_t group = divide_up(pods * spine_up, shape.ports);
    for (int64_t i = 0; i < spines; ++i) {
      std::vector<size_t> cores;
      for (int64_t c = 0; c < group; ++c) {
        cores.push_back(layer.add(fmt::format("core{}", i * group + c)));
      }
      for (size_t p = 0; p < spine_ids.size(); ++p) {
        layer.spread(spine_ids[p][static_cast<size_t>(i)], cores, spine_up, p);
      }
    }
  }
  for (int64_t d = 0; d < devices; ++d) {
    fabric.attached.push_back(
        leaf_ids[static_cast<size_t>(d / rails / shape.down)][static_cast<size_t>(d % rails)]);
  }
}

// "12", "0-31", "0-2047/8", comma separated.
std::vector<int64_t> read_devices(YamlMap& map, const std::string& key, int64_t devices) {
  const std::string text = map.text(key);
  std::vector<int64_t> list;
  const auto bad = [&](const std::string& why) {
    map.fail(key,
             fmt::format("{}; expected devices from 0 to {}, such as \"0-31\", \"0-63/8\" (every "
                         "eighth) or \"3, 5\"",
                         why,
                         devices - 1));
  };
  size_t at = 0;
  const auto number = [&]() -> int64_t {
    const size_t first = at;
    int64_t value = 0;
    while (at < text.size() && text[at] >= '0' && text[at] <= '9' && at - first < 10) {
      value = value * 10 + (text[at++] - '0');
    }
    if (at == first) bad(fmt::format("found '{}'", text));
    return value;
  };
  const auto skip = [&] {
    while (at < text.size() && text[at] == ' ') ++at;
  };
  for (;;) {
    skip();
    const int64_t first = number();
    int64_t last = first;
    int64_t step = 1;
    if (at < text.size() && text[at] == '-') {
      ++at;
      last = number();
      if (at < text.size() && text[at] == '/') {
        ++at;
        step = number();
      }
    }
    if (last < first || step < 1 || last >= devices) bad(fmt::format("found '{}'", text));
    for (int64_t d = first; d <= last; d += step) list.push_back(d);
    skip();
    if (at == text.size()) return list;
    if (text[at] != ',') bad(fmt::format("found '{}'", text));
    ++at;
  }
}

void read_custom(YamlMap& map, Fabric& fabric, const FabricSetting& setting) {
  std::map<std::string, size_t> names;
  const int64_t devices = setting.nodes * setting.devices_per_node;
  const size_t none = static_cast<size_t>(-1);
  fabric.attached.assign(static_cast<size_t>(devices), none);
  for (YamlMap& s : map.maps("switches")) {
    const std::string name = s.text("name");
    if (!names.emplace(name, fabric.switches.size()).second) {
      s.fail("name", fmt::format("two switches are called '{}'; names must differ", name));
    }
    fabric.switches.push_back({name, s.duration("latency")});
    if (s.has("devices")) {
      for (const int64_t d : read_devices(s, "devices", devices)) {
        size_t& at = fabric.attached[static_cast<size_t>(d)];
        if (at != none) {
          s.fail("devices",
                 fmt::format(
                     "device {} is already attached to switch '{}'", d, fabric.switches[at].name));
        }
        at = fabric.switches.size() - 1;
      }
    }
    s.finish();
  }
  constexpr size_t kSwitches = 65'535;  // ways between them are counted in 16 bits
  if (fabric.switches.size() > kSwitches) {
    map.fail("switches", fmt::format("at most {} switches can be stated", kSwitches));
  }
  const auto loose = std::find(fabric.attached.begin(), fabric.attached.end(), none);
  if (loose != fabric.attached.end()) {
    map.fail("switches",
             fmt::format("device {} is attached to no switch; every one of the {} devices must be",
                         loose - fabric.attached.begin(),
                         devices));
  }
  if (!map.has("links")) return;
  std::set<std::pair<size_t, size_t>> taken;
  for (YamlMap& l : map.maps("links")) {
    SwitchLink link;
    for (const char* key : {"a", "b"}) {
      const std::string name = l.text(key);
      const auto found = names.find(name);
      if (found == names.end()) {
        std::vector<std::string> known;
        for (const auto& [n, i] : names) known.push_back(n);
        const auto near = nearest_name(name, known);
        l.fail(key,
               fmt::format("no switch is called '{}'{}",
                           name,
                           near ? fmt::format("; did you mean '{}'?", *near) : ""));
      }
      (*key == 'a' ? link.a : link.b) = found->second;
    }
    if (link.a == link.b) l.fail("b", "a link joins two switches, and these are the same");
    if (!taken.insert(std::minmax(link.a, link.b)).second) {
      l.fail("b",
             fmt::format("'{}' and '{}' are already joined; state parallel cables as 'cables'",
                         fabric.switches[link.a].name,
                         fabric.switches[link.b].name));
    }
    link.cables = l.integer("cables", {.min = 1, .max = 100'000}, 1);
    const BytesPerSecond cable = l.has("bandwidth") ? l.rate("bandwidth") : setting.nic;
    link.bandwidth = BytesPerSecond(cable.value() * static_cast<double>(link.cables));
    l.finish();
    fabric.links.push_back(link);
  }
}

// That switches of so many ports are enough.
void check_ports(const YamlMap& map, FabricKind kind, const FabricShape& shape) {
  const int64_t nodes = shape.setting.nodes;
  const int64_t per_node = shape.setting.devices_per_node;
  const auto too_many = [&](int64_t most, std::string_view what) {
    map.fail("switch_ports",
             fmt::format("switches of {} ports take at most {} {} in this fabric; the cluster has "
                         "more",
                         shape.ports,
                         most,
                         what));
  };
  if (kind == FabricKind::kFatTree && shape.down < per_node) {
    map.fail("switch_ports", "a leaf switch must have room for all NICs of a node");
  }
  const int64_t per_leaf = kind == FabricKind::kFatTree ? shape.down / per_node : shape.down;
  if (divide_up(nodes, per_leaf) > shape.ports) too_many(per_leaf * shape.ports, "nodes");
  if (kind == FabricKind::kMultiRailFatTree && per_node > shape.ports / 2) {
    too_many(shape.ports / 2, "devices per node");
  }
}

}  // namespace

Fabric read_fabric(YamlMap map, const FabricSetting& setting) {
  Fabric fabric;
  fabric.kind = map.choice("kind", kFabricKinds);
  if (map.has("routing")) {
    fabric.adaptive = map.choice<bool>("routing", {{"adaptive", true}, {"static", false}});
  }
  const int64_t devices = setting.nodes * setting.devices_per_node;
  if (fabric.kind == FabricKind::kIdeal) {
    map.finish();
    return fabric;
  }
  constexpr int64_t kDevices = 1 << 20;
  if (devices > kDevices) {
    map.fail("kind",
             fmt::format("switches are laid out for at most {} devices, and this cluster has {}; "
                         "use 'ideal'",
                         kDevices,
                         devices));
  }
  if (fabric.kind == FabricKind::kCustom) {
    read_custom(map, fabric, setting);
    map.finish();
    return fabric;
  }
  FabricShape shape{.setting = setting, .latency = map.duration("switch_latency")};
  if (fabric.kind != FabricKind::kSingleSwitch) {
    shape.ports = map.integer("switch_ports", {.min = 2, .max = 4096});
    const double oversubscription = map.number("oversubscription", {.min = 1, .max = 1000}, 1);
    shape.up = std::max<int64_t>(
        1, static_cast<int64_t>(static_cast<double>(shape.ports) / (1 + oversubscription) + 1e-9));
    shape.down = shape.ports - shape.up;
    check_ports(map, fabric.kind, shape);
  }
  map.finish();
  fabric.shape = shape;
  return fabric;
}

Fabric laid_out(Fabric fabric, std::optional<int64_t> devices) {
  if (!fabric.shape) return fabric;
  const FabricShape shape = *fabric.shape;
  fabric.shape.reset();
  const int64_t per_node = shape.setting.devices_per_node;
  const int64_t all = shape.setting.nodes * per_node;
  const int64_t used = std::min(all, devices.value_or(all));
  SwitchLayer layer(fabric, shape.setting.nic, shape.latency);
  switch (fabric.kind) {
    case FabricKind::kSingleSwitch:
      fabric.attached.assign(static_cast<size_t>(used), layer.add("switch"));
      break;
    case FabricKind::kFatTree: {
      const int64_t down = shape.down / per_node * per_node;  // whole nodes
      const auto leaves = two_layers(layer, "", shape, down, all, used);
      for (int64_t d = 0; d < used; ++d) {
        fabric.attached.push_back(leaves[static_cast<size_t>(d / down)]);
      }
      break;
    }
    case FabricKind::kMultiPlaneFatTree: {
      std::vector<std::vector<size_t>> leaves;
      for (int64_t p = 0; p < per_node; ++p) {
        leaves.push_back(two_layers(layer,
                                    fmt::format("plane{}/", p),
                                    shape,
                                    shape.down,
                                    shape.setting.nodes,
                                    divide_up(used, per_node)));
      }
      for (int64_t d = 0; d < used; ++d) {
        fabric.attached.push_back(leaves[static_cast<size_t>(d % per_node)]
                                        [static_cast<size_t>(d / per_node / shape.down)]);
      }
      break;
    }
    case FabricKind::kMultiRailFatTree:
      multi_rail(layer, fabric, shape, used);
      break;
    case FabricKind::kIdeal:
    case FabricKind::kCustom:
      break;
  }
  return fabric;
}

void fail_link(Fabric& fabric,
               const std::string& a,
               const std::string& b,
               int64_t cables,
               const SourcePlace& place) {
  for (size_t i = 0; i < fabric.links.size(); ++i) {
    SwitchLink& link = fabric.links[i];
    const std::string& x = fabric.switches[link.a].name;
    const std::string& y = fabric.switches[link.b].name;
    if (!((x == a && y == b) || (x == b && y == a))) continue;
    if (cables > link.cables) {
      place.fail("faults",
                 fmt::format("{} cables between '{}' and '{}' cannot fail: there are {}",
                             cables,
                             a,
                             b,
                             link.cables));
    }
    const int64_t left = cables == 0 ? 0 : link.cables - cables;
    if (left == 0) {
      fabric.links.erase(fabric.links.begin() + static_cast<ptrdiff_t>(i));
    } else {
      link.bandwidth = BytesPerSecond(link.bandwidth.value() * static_cast<double>(left) /
                                      static_cast<double>(link.cables));
      link.cables = left;
    }
    return;
  }
  std::vector<std::string> links;
  for (const SwitchLink& l : fabric.links) {
    links.push_back(fabric.switches[l.a].name + " " + fabric.switches[l.b].name);
  }
  const auto near = nearest_name(a + " " + b, links);
  place.fail(
      "faults",
      fmt::format("no link joins '{}' and '{}'{}",
                  a,
                  b,
                  near            ? fmt::format("; did you mean '{}'?", *near)
                  : links.empty() ? "; this fabric has no links between switches"
                                  : fmt::format("; there is, for one, '{}'", links.front())));
}

std::vector<size_t> networks_of(const Fabric& fabric) {
  boost::adjacency_list<boost::vecS, boost::vecS, boost::undirectedS> graph(fabric.switches.size());
  for (const SwitchLink& l : fabric.links) boost::add_edge(l.a, l.b, graph);
  std::vector<size_t> network(fabric.switches.size());
  if (!network.empty()) boost::connected_components(graph, network.data());
  return network;
}

std::string check_reachable(const Fabric& fabric, const FabricSetting& setting) {
  const std::vector<size_t> network = networks_of(fabric);
  // Nodes that have a NIC in each network; a device is reachable from the nodes that are in its
  // own.
  struct Seen {
    int64_t nodes = 0, last = -1;  // the node seen last: devices come in their nodes' order
    int64_t outside = 0;           // the first node that has none, or after the last
    int64_t device = -1;           // the first
  };
  std::vector<Seen> networks(fabric.switches.size());
  for (size_t d = 0; d < fabric.attached.size(); ++d) {
    Seen& seen = networks[network[fabric.attached[d]]];
    const int64_t node = static_cast<int64_t>(d) / setting.devices_per_node;
    if (seen.device < 0) seen.device = static_cast<int64_t>(d);
    if (seen.last == node) continue;
    seen.last = node;
    ++seen.nodes;
    if (seen.outside == node) ++seen.outside;
  }
  for (const auto& [nodes, last, outside, device] : networks) {
    if (device < 0 || nodes == setting.nodes) continue;
    return fmt::format(
        "device {} (switch '{}') cannot be reached from device {} (switch '{}'): no cables lead "
        "there, and node {} has no other NIC on that network",
        device,
        fabric.switches[fabric.attached[static_cast<size_t>(device)]].name,
        outside * setting.devices_per_node,
        fabric.switches[fabric.attached[static_cast<size_t>(outside * setting.devices_per_node)]]
            .name,
        outside);
  }
  return "";
}

}  // namespace rehearse
