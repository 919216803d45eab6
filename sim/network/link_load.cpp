#include "sim/network/link_load.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace rehearse {

std::string print_link_load(const LinkLoad& load,
                            const std::vector<std::pair<int64_t, int64_t>>& ranks,
                            const Cluster& cluster) {
  const auto rate = [](const std::optional<Link>& link) {
    return link ? fmt::format("{}", link->bandwidth.value()) : std::string("null");
  };
  std::vector<std::string> bytes;
  for (const auto& [rank, simulated] : ranks) {
    const LinkLoad::Bins& bins = load.loads().at(simulated);
    const auto list = [&](LinkKind kind) {
      return fmt::format("[{}]", fmt::join(bins[static_cast<size_t>(kind)], ","));
    };
    bytes.push_back(fmt::format(
        "\"{}\":{{\"node_out\":{},\"node_in\":{},\"network_out\":{},\"network_in\":{}}}",
        rank,
        list(LinkKind::kNodeOut),
        list(LinkKind::kNodeIn),
        list(LinkKind::kNetworkOut),
        list(LinkKind::kNetworkIn)));
  }
  return fmt::format(
      "{{\"bin_s\":{},\"node_bytes_per_s\":{},\"network_bytes_per_s\":{},\"bytes\":{{{}}}}}\n",
      load.bin().seconds(),
      rate(cluster.node_link),
      rate(cluster.network),
      fmt::join(bytes, ","));
}

}  // namespace rehearse
