// Fuzzes the topology parser (tests/fuzzing.h).

#include <algorithm>

#include "plan/cluster.h"
#include "sim/network/network.h"
#include "tests/fuzzing.h"

namespace rehearse {
namespace {

// What a user would do with the text. Returns whether it was a topology.
bool use(const std::string& text) {
  try {
    const Cluster c = parse_cluster(text, "fuzz.yaml");
    if (c.devices() > 256 || laid_out(c.fabric).links.size() > 256) return true;
    Sharing sharing;
    std::optional<FabricRoutes> routes;
    if (c.network && c.fabric.kind != FabricKind::kIdeal) routes.emplace(c);
    const Network network(
        c, RankBlock::all({.dp = c.devices()}), routes ? &*routes : nullptr, sharing);
    for (int64_t d = 0; d < std::min<int64_t>(c.devices(), 40); ++d) {
      const int64_t to = (d * 7 + 3) % c.devices();
      const bool same_node = d / c.devices_per_node == to / c.devices_per_node;
      if (d != to && (same_node || c.network)) network.route(d, to);
    }
    return true;
  } catch (const InputError&) {
    return false;
  }
}

const std::vector<std::string> kWords = {"nodes: ",
                                         "devices_per_node: ",
                                         "kind: ",
                                         "gpu",
                                         "cpu",
                                         "emulated",
                                         "network:",
                                         "fabric:",
                                         "node_link:",
                                         "bandwidth: ",
                                         "latency: ",
                                         "0 GB/s",
                                         "-1 GB/s",
                                         "1e400 GB/s",
                                         "nan GB/s",
                                         "switch_ports: ",
                                         "oversubscription: ",
                                         "custom",
                                         "fat_tree",
                                         "multi_plane_fat_tree",
                                         "multi_rail_fat_tree",
                                         "single_switch",
                                         "ideal",
                                         "static",
                                         "adaptive",
                                         "switches:",
                                         "links:",
                                         "- {a: x, b: y}",
                                         "- {name: x, latency: 1 us, devices: 0-7}",
                                         "faults:",
                                         "- {link: x y}",
                                         "- {nic: 3, bandwidth: 1 GB/s}",
                                         "- {device: 99999, speed: 0}",
                                         "cables: ",
                                         "9223372036854775807",
                                         "-9223372036854775808",
                                         "1000000",
                                         "0",
                                         "-1",
                                         "0-0/0",
                                         "3, 3",
                                         "0-99999999999999",
                                         "&a",
                                         "*a",
                                         "<<: *a",
                                         "!!int ",
                                         "? ",
                                         "|",
                                         ">",
                                         "\t",
                                         "[",
                                         "{",
                                         "}",
                                         "]",
                                         "\"",
                                         "'",
                                         "\\x00",
                                         "\xff\xfe",
                                         "\n",
                                         ": ",
                                         "- ",
                                         "#",
                                         "---\n",
                                         "...\n"};

}  // namespace
}  // namespace rehearse

int main(int argc, char** argv) {
  return rehearse::fuzz_main({rehearse::kWords, ".yaml", rehearse::use}, argc, argv);
}
