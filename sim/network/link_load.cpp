#include "sim/network/link_load.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace rehearse {

void LinkLoad::settle_rounding(
    const std::function<double(int64_t rank, LinkKind)>& bytes_per_second) {
  constexpr double kRounding = 1e-6;
  for (auto& [rank, kinds] : loads_) {
    for (size_t k = 0; k < kLinkKinds; ++k) {
      std::vector<double>& bins = kinds[k];
      const double most = bytes_per_second(rank, static_cast<LinkKind>(k)) * bin_.seconds();
      for (size_t b = 0; b < bins.size(); ++b) {
        const double beyond = bins[b] - most;
        if (beyond <= 0) continue;
        CHECK(beyond <= most * kRounding) << "a link of rank " << rank << " carries " << bins[b]
                                          << " bytes in a bin of at most " << most;
        bins[b] = most;
        if (b + 1 == bins.size()) bins.push_back(0);
        bins[b + 1] += beyond;
      }
    }
  }
}

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
