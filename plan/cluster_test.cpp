// Topology files: what fabrics the short descriptions make, and what is said about slips.

#include "plan/cluster.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "base/errors.h"
#include "base/file.h"

namespace rehearse {
namespace {

std::string yaml(const std::string& fabric, const std::string& more = "") {
  return "name: c\nnodes: 4\ndevices_per_node: 2\ndevice:\n  kind: gpu\n  peak: 1 TFLOP/s\n"
         "  memory_bandwidth: 1 TB/s\n  memory: 1 GB\nnode_link:\n  bandwidth: 100 GB/s\n"
         "  latency: 1 us\nnetwork:\n  bandwidth: 50 GB/s\n  latency: 2 us\n  fabric:\n" +
         fabric + more;
}
std::string tree(const std::string& kind, int64_t ports) {
  return "    kind: " + kind + "\n    switch_ports: " + std::to_string(ports) +
         "\n    switch_latency: 1 us\n";
}
const std::string kCustom =
    "    kind: custom\n    switches:\n"
    "      - {name: a, latency: 1 us, devices: 0-3}\n"
    "      - {name: b, latency: 1 us, devices: \"4, 5-7\"}\n"
    "    links:\n      - {a: a, b: b}\n";

std::string error_of(const std::string& text) {
  try {
    parse_cluster(text, "c.yaml");
  } catch (const InputError& e) {
    return e.what();
  }
  return "no error";
}

// Zhao et al. 2025, table 3: eight planes of 64-port switches take 16,384 GPUs with 768 switches; a
// three-layer fat tree of 65,536 would need 5,120.
TEST(Fabric, MultiPlaneHasThePublishedSwitches) {
  std::string text = yaml(tree("multi_plane_fat_tree", 64));
  text.replace(text.find("nodes: 4"), 8, "nodes: 2048");
  text.replace(text.find("per_node: 2"), 11, "per_node: 8");
  const Cluster c = parse_cluster(text, "c.yaml");
  EXPECT_EQ(c.devices(), 16'384);
  EXPECT_EQ(laid_out(c.fabric).switches.size(), 768u);
  for (const SwitchLink& l : laid_out(c.fabric).links) EXPECT_EQ(l.cables, 1);
  text.replace(text.find("nodes: 2048"), 11, "nodes: 2049");
  EXPECT_EQ(
      error_of(text),
      "c.yaml:17:19: network.fabric.switch_ports: switches of 64 ports take at most 2048 nodes "
      "in this fabric; the cluster has more\n"
      "        switch_ports: 64\n"
      "                      ^");
}

TEST(Fabric, MultiRailLeavesAreRails) {
  std::string text = yaml(tree("multi_rail_fat_tree", 4));  // pods of 2 nodes
  const Cluster c = parse_cluster(text, "c.yaml");
  // Two pods of two leaves and two spines; each group of cores joins two pods' spines, 2 cables
  // each.
  EXPECT_EQ(laid_out(c.fabric).attached[0],
            laid_out(c.fabric).attached[2]);  // device 0 of nodes 0 and 1
  EXPECT_NE(laid_out(c.fabric).attached[0], laid_out(c.fabric).attached[1]);
  EXPECT_NE(laid_out(c.fabric).attached[0], laid_out(c.fabric).attached[4]);
  EXPECT_EQ(laid_out(c.fabric).switches.size(), 2u * 4 + 2);
  int64_t down = 0;
  for (const SwitchLink& l : laid_out(c.fabric).links) down += l.cables;
  EXPECT_EQ(down, 2 * 2 * 2 + 2 * 2 * 2);  // leaves' and spines' cables up
}

TEST(Fabric, OversubscriptionTakesCablesAway) {
  const auto up = [](const std::string& oversubscription) {
    const Cluster c = parse_cluster(yaml(tree("fat_tree", 4) + oversubscription), "c.yaml");
    int64_t cables = 0;
    for (const SwitchLink& l : laid_out(c.fabric).links) cables += l.cables;
    return cables;
  };
  EXPECT_EQ(up(""), 4 * 2);
  EXPECT_EQ(up("    oversubscription: 3\n"), 4 * 1);
}

TEST(Fabric, FaultsAreStated) {
  const Cluster c = parse_cluster(
      yaml(tree("fat_tree", 4),
           "faults:\n  - {link: leaf0 spine0, cables: 1}\n  - {nic: 3, bandwidth: 5 GB/s}\n"
           "  - {device: 4, speed: 0.5}\n"),
      "c.yaml");
  EXPECT_EQ(c.slow_nics.at(3).value(), 5e9);
  EXPECT_EQ(c.speed(4), 0.5);
  EXPECT_EQ(c.speed(5), 1);
  EXPECT_FALSE(c.uniform());
}

TEST(BadTopology, ZeroBandwidth) {
  std::string text = yaml(tree("fat_tree", 4));
  text.replace(text.find("50 GB/s"), 7, "0 GB/s");
  EXPECT_EQ(error_of(text),
            "c.yaml:13:14: network.bandwidth: '0 GB/s' is beyond what a rate can be here: 1 B/s to "
            "1 EB/s\n"
            "      bandwidth: 0 GB/s\n"
            "                 ^");
  EXPECT_EQ(
      error_of(yaml(kCustom, "faults:\n  - {nic: 1, bandwidth: 0 GB/s}\n")),
      "c.yaml:23:25: faults[0].bandwidth: '0 GB/s' is beyond what a rate can be here: 1 B/s to "
      "1 EB/s\n"
      "      - {nic: 1, bandwidth: 0 GB/s}\n"
      "                            ^");
}

TEST(BadTopology, DuplicateNames) {
  std::string text = yaml(kCustom);
  text.replace(text.find("name: b"), 7, "name: a");
  EXPECT_EQ(
      error_of(text),
      "c.yaml:19:16: network.fabric.switches[1].name: two switches are called 'a'; names must "
      "differ\n"
      "          - {name: a, latency: 1 us, devices: \"4, 5-7\"}\n"
      "                   ^");
}

TEST(BadTopology, UnreachableRanks) {
  EXPECT_EQ(error_of(yaml(kCustom, "faults:\n  - {link: a b}\n")),
            "c.yaml:13:3: network: device 0 (switch 'a') cannot be reached from device 4 (switch "
            "'b'): no cables lead there, and node 2 has no other NIC on that network\n"
            "      bandwidth: 50 GB/s\n"
            "      ^");
  // A plane's leaf that lost all its cables.
  std::string planes =
      yaml(tree("multi_plane_fat_tree", 2), "faults:\n  - {link: plane0/leaf0 plane0/spine0}\n");
  planes.replace(planes.find("nodes: 4"), 8, "nodes: 2");
  EXPECT_NE(error_of(planes).find("cannot be reached from"), std::string::npos) << error_of(planes);
}

TEST(BadTopology, UnknownSwitchesDevicesAndLinks) {
  std::string text = yaml(kCustom);
  text.replace(text.find("b: b}"), 5, "b: bb}");
  EXPECT_EQ(error_of(text),
            "c.yaml:21:19: network.fabric.links[0].b: no switch is called 'bb'; did you mean 'b'?\n"
            "          - {a: a, b: bb}\n"
            "                      ^");
  text = yaml(kCustom);
  text.replace(text.find("5-7"), 3, "5-8");
  EXPECT_EQ(
      error_of(text),
      "c.yaml:19:43: network.fabric.switches[1].devices: found '4, 5-8'; expected devices from "
      "0 to 7, such as \"0-31\", \"0-63/8\" (every eighth) or \"3, 5\"\n"
      "          - {name: b, latency: 1 us, devices: \"4, 5-8\"}\n"
      "                                              ^");
  text = yaml(kCustom);
  text.replace(text.find("5-7"), 3, "5-6");
  EXPECT_NE(error_of(text).find("device 7 is attached to no switch; every one of the 8 devices"),
            std::string::npos);
  EXPECT_NE(error_of(yaml(kCustom, "faults:\n  - {link: a c}\n"))
                .find("no link joins 'a' and 'c'; did you mean 'a b'?"),
            std::string::npos);
  EXPECT_NE(error_of(yaml(tree("fat_tree", 4), "faults:\n  - {link: leaf0 spine0, cables: 9}\n"))
                .find("9 cables between 'leaf0' and 'spine0' cannot fail: there are"),
            std::string::npos);
}

// Every file that fuzzing (tests/topology_fuzz.cpp) kept parses or is refused.
TEST(BadTopology, FuzzedFilesAreReadOrRefused) {
  int64_t files = 0;
  int64_t good = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(REHEARSE_SOURCE_DIR) +
                                                               "/tests/corpus/topology")) {
    const std::string text = read_file(entry.path().string());
    try {
      parse_cluster(text, "corpus.yaml");
      ++good;
    } catch (const InputError&) {
    }
    ++files;
  }
  EXPECT_GT(files, 10);
  EXPECT_GT(good, 8);
}

}  // namespace
}  // namespace rehearse
