// SimGrid as an oracle: flow completion times over our topologies equal those of its network model
// with TCP's peculiarities switched off (latency 0, weight-S 0, TCP-gamma 0, crosstraffic 0,
// factors 1), contended or not. SimGrid gets every link of every route, those included that our
// routes leave out because they can never be a bottleneck.

#include <cmath>
#include <map>
#include <random>

#include <gtest/gtest.h>
#include <simgrid/s4u.hpp>

#include "plan/cluster.h"
#include "plan/testing.h"
#include "sim/network/network.h"

namespace rehearse {
namespace {

namespace sg4 = simgrid::s4u;

struct Case {
  std::string name;
  int64_t nodes = 1, per_node = 1;
  std::string fabric;  // YAML of the network's fabric
  std::string faults;  // and of the faults
  bool contended = true;
};

std::vector<Case> cases() {
  const auto fat = [](const std::string& kind, int ports, const std::string& over) {
    return "    kind: " + kind + "\n    switch_ports: " + std::to_string(ports) +
           "\n    switch_latency: 0 ns\n    oversubscription: " + over + "\n    routing: static\n";
  };
  const std::string one = "    kind: single_switch\n    switch_latency: 0 ns\n";
  const std::string line =
      "    kind: custom\n    routing: static\n    switches:\n"
      "      - {name: a, latency: 0 ns, devices: 0-3}\n"
      "      - {name: b, latency: 0 ns, devices: 4-7}\n"
      "      - {name: c, latency: 0 ns, devices: 8-11}\n    links:\n"
      "      - {a: a, b: b, cables: 2}\n      - {a: b, b: c, bandwidth: 30 GB/s}\n";
  const std::string ring =
      "    kind: custom\n    routing: static\n    switches:\n"
      "      - {name: a, latency: 0 ns, devices: \"0, 4, 8\"}\n"
      "      - {name: b, latency: 0 ns, devices: \"1, 5, 9\"}\n"
      "      - {name: c, latency: 0 ns, devices: \"2, 6, 10\"}\n"
      "      - {name: d, latency: 0 ns, devices: \"3, 7, 11\"}\n    links:\n"
      "      - {a: a, b: b}\n      - {a: b, b: c}\n      - {a: c, b: d}\n      - {a: d, b: a}\n";
  return {
      {"pair", 2, 1, one},
      {"switch of 4", 4, 1, one},
      {"switch of 16, permutation", 16, 1, one, "", false},
      {"switch of 64", 8, 8, one},
      {"switch with a slow NIC", 8, 1, one, "  - {nic: 3, bandwidth: 12 GB/s}\n"},
      {"fat tree, full", 16, 2, fat("fat_tree", 8, "1")},
      {"fat tree, full, permutation", 16, 2, fat("fat_tree", 8, "1"), "", false},
      {"fat tree 2:1", 12, 2, fat("fat_tree", 12, "2")},
      {"fat tree 3:1", 16, 1, fat("fat_tree", 8, "3")},
      {"fat tree 7:1, permutation", 28, 1, fat("fat_tree", 8, "7"), "", false},
      {"fat tree, cables failed",
       16,
       2,
       fat("fat_tree", 8, "1"),
       "  - {link: leaf0 spine0, cables: 1}\n  - {link: leaf1 spine1}\n"},
      {"multi-plane", 32, 4, fat("multi_plane_fat_tree", 16, "1")},
      {"multi-plane, permutation", 32, 4, fat("multi_plane_fat_tree", 16, "1"), "", false},
      {"multi-plane 3:1", 48, 2, fat("multi_plane_fat_tree", 16, "3")},
      {"multi-plane, link failed",
       32,
       4,
       fat("multi_plane_fat_tree", 16, "1"),
       "  - {link: plane2/leaf1 plane2/spine0}\n"},
      {"multi-rail", 16, 4, fat("multi_rail_fat_tree", 8, "1")},
      {"multi-rail, permutation", 16, 4, fat("multi_rail_fat_tree", 8, "1"), "", false},
      {"multi-rail 3:1", 24, 4, fat("multi_rail_fat_tree", 8, "3")},
      {"multi-rail, slow NICs",
       32,
       4,
       fat("multi_rail_fat_tree", 16, "1"),
       "  - {nic: 0, bandwidth: 5 GB/s}\n  - {nic: 9, bandwidth: 25 GB/s}\n"},
      {"line of switches", 12, 1, line},
      {"line of switches, pairs in nodes", 6, 2, line},
      {"ring of switches", 12, 1, ring},
      {"ring of switches, one link failed", 12, 1, ring, "  - {link: c d}\n"},
      {"H800 nodes alone", 1, 8, ""},
  };
}

Cluster cluster_of(const Case& c) {
  std::string yaml = "name: oracle\nnodes: " + std::to_string(c.nodes) +
                     "\ndevices_per_node: " + std::to_string(c.per_node) +
                     "\ndevice:\n  kind: gpu\n  peak: 1 TFLOP/s\n  memory_bandwidth: 1 TB/s\n"
                     "  memory: 1 GB\nnode_link:\n  bandwidth: 160 GB/s\n  latency: 0 ns\n";
  if (!c.fabric.empty()) {
    yaml += "network:\n  bandwidth: 50 GB/s\n  latency: 0 ns\n  fabric:\n" + c.fabric;
  }
  if (!c.faults.empty()) yaml += "faults:\n" + c.faults;
  return parse_cluster(yaml, c.name + ".yaml");
}

struct Flow {
  int64_t from = 0, to = 0;
  double bytes = 0;
  Duration start;
  Duration ours;
  double theirs = 0;
};

std::vector<Flow> random_flows(const Case& c, uint64_t seed) {
  std::mt19937_64 random(seed);
  const int64_t devices = c.nodes * c.per_node;
  std::vector<Flow> flows;
  std::uniform_real_distribution<double> magnitude(5, 8);
  if (!c.contended) {  // every device sends once and receives once
    const auto shift = static_cast<int64_t>(1 + random() % static_cast<uint64_t>(devices - 1));
    for (int64_t d = 0; d < devices; ++d) {
      flows.push_back(
          {d, (d + shift) % devices, std::round(std::pow(10, magnitude(random))), {}, {}, 0});
    }
    return flows;
  }
  for (int64_t i = 0; i < 120; ++i) {
    Flow f;
    f.from = static_cast<int64_t>(random() % static_cast<uint64_t>(devices));
    f.to = static_cast<int64_t>(random() % static_cast<uint64_t>(devices));
    if (f.from == f.to) f.to = (f.to + 1) % devices;
    f.bytes = std::round(std::pow(10, magnitude(random)));
    // Half of them at once, the others while those run.
    if (i % 2 == 1) f.start = Duration::microseconds(static_cast<double>(random() % 2000));
    flows.push_back(f);
  }
  return flows;
}

void run_ours(const Cluster& cluster, std::vector<Flow>& flows) {
  Sharing sharing;
  std::optional<FabricRoutes> fabric;
  if (cluster.network) fabric.emplace(cluster);
  const Network network(
      cluster, RankBlock::all({.dp = cluster.devices()}), fabric ? &*fabric : nullptr, sharing);
  EventQueue queue;
  for (size_t i = 0; i < flows.size(); ++i) {
    Sharing::wait(Duration(), flows[i].start, queue, 2 * i);
  }
  std::vector<uint64_t> happened;
  while (!queue.empty()) {
    const auto event = queue.pop();
    const Duration now = Duration::picoseconds(event.time);
    happened.clear();
    sharing.finish(event, happened);
    for (const uint64_t payload : happened) {
      Flow& f = flows[payload / 2];
      if (payload % 2 == 1) {
        f.ours = now;
      } else {
        sharing.start(
            now, f.bytes, Sharing::kNoBound, network.route(f.from, f.to)->uses, payload + 1);
      }
    }
    sharing.update(now, queue);
  }
}

// Every link of the way: the node's, or NICs and all cables between switches.
std::vector<std::pair<std::string, double>> links_of(const Cluster& c,
                                                     const FabricRoutes* fabric,
                                                     const Flow& f) {
  const auto node = [&](int64_t d, const char* way) {
    return std::pair("nvlink" + std::to_string(d) + way, c.node_link->bandwidth.value());
  };
  const auto nic = [&](int64_t d, const char* way) {
    const auto slow = c.slow_nics.find(d);
    return std::pair("nic" + std::to_string(d) + way,
                     (slow == c.slow_nics.end() ? c.network->bandwidth : slow->second).value());
  };
  if (f.from / c.devices_per_node == f.to / c.devices_per_node) {
    return {node(f.from, "out"), node(f.to, "in")};
  }
  std::vector<std::pair<std::string, double>> links;
  int64_t leaves = f.from;
  if (!fabric->same_network(f.from, f.to)) {
    leaves = f.from / c.devices_per_node * c.devices_per_node + f.to % c.devices_per_node;
    links = {node(f.from, "out"), node(leaves, "in")};
  }
  links.push_back(nic(leaves, "out"));
  for (const FabricRoutes::Part& p : fabric->path(leaves, f.to)) {
    links.emplace_back("cable" + std::to_string(p.link), fabric->bandwidth(p.link));
  }
  links.push_back(nic(f.to, "in"));
  return links;
}

TEST(SimGridOracle, FlowCompletionTimesAgree) {
  const std::vector<Case> all = cases();
  ASSERT_GE(all.size(), 20u);
  int argc = 1;
  char program[] = "oracle";
  char* argv[] = {program, nullptr};
  sg4::Engine engine(&argc, argv);
  sg4::Engine::set_config("network/model:CM02");
  sg4::Engine::set_config("network/weight-S:0");
  sg4::Engine::set_config("network/TCP-gamma:0");
  sg4::Engine::set_config("network/crosstraffic:0");
  sg4::Engine::set_config("network/latency-factor:1");
  sg4::Engine::set_config("network/bandwidth-factor:1");
  sg4::NetZone* root = sg4::create_full_zone("root");
  std::vector<std::vector<Flow>> flows;
  for (size_t i = 0; i < all.size(); ++i) {
    const Cluster cluster = cluster_of(all[i]);
    flows.push_back(random_flows(all[i], i + 1));
    run_ours(cluster, flows.back());
    std::optional<FabricRoutes> fabric;
    if (cluster.network) fabric.emplace(cluster);
    const std::string prefix = "t" + std::to_string(i) + "_";
    sg4::NetZone* zone = sg4::create_full_zone(prefix)->set_parent(root);
    std::map<std::string, sg4::Link*> links;
    for (size_t k = 0; k < flows[i].size(); ++k) {
      const std::string name = prefix + std::to_string(k);
      sg4::Host* from = zone->create_host(name + "a", 1e9)->seal();
      sg4::Host* to = zone->create_host(name + "b", 1e9)->seal();
      std::vector<sg4::LinkInRoute> route;
      for (const auto& [link, rate] : links_of(cluster, fabric ? &*fabric : nullptr, flows[i][k])) {
        sg4::Link*& l = links[link];
        if (l == nullptr) l = zone->create_link(prefix + link, rate)->set_latency(0)->seal();
        route.emplace_back(l);
      }
      zone->add_route(from->get_netpoint(), to->get_netpoint(), nullptr, nullptr, route, false);
      Flow* flow = &flows[i][k];
      sg4::Actor::create(name, from, [=] {
        sg4::this_actor::sleep_until(flow->start.seconds());
        sg4::Comm::sendto(from, to, static_cast<uint64_t>(flow->bytes));
        flow->theirs = sg4::Engine::get_clock();
      });
    }
    zone->seal();
  }
  root->seal();
  engine.run();
  double worst = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    double worst_here = 0;
    for (const Flow& f : flows[i]) {
      const double theirs = f.theirs - f.start.seconds();
      const double ours = (f.ours - f.start).seconds();
      worst_here = std::max(worst_here, std::abs(ours / theirs - 1));
    }
    EXPECT_LT(worst_here, 1e-3) << all[i].name;
    worst = std::max(worst, worst_here);
  }
  RecordProperty("worst_relative_difference", std::to_string(worst));
  std::cout << all.size() << " topologies, worst relative difference " << worst << "\n";
}

}  // namespace
}  // namespace rehearse
