#pragma once
// How busy the links of chosen ranks are over a step, for pictures: bytes per bin of time, when
// they are carried.

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "plan/cluster.h"

namespace rehearse {

enum class LinkKind : uint8_t { kNodeOut, kNodeIn, kNetworkOut, kNetworkIn };
constexpr size_t kLinkKinds = 4;

class LinkLoad {
 public:
  explicit LinkLoad(Duration bin = Duration::microseconds(1000)) : bin_(bin) {}

  // Ranks that load is wanted of; before any add().
  void choose(int64_t rank) { loads_[rank]; }
  bool wanted() const { return !loads_.empty(); }
  bool wants(int64_t rank) const { return loads_.contains(rank); }

  void add(int64_t rank, LinkKind kind, Duration begin, Duration end, double bytes) {
    std::vector<double>& bins = loads_.at(rank)[static_cast<size_t>(kind)];
    const int64_t size = bin_.picoseconds();
    const int64_t from = begin.picoseconds();
    const int64_t to = std::max(end.picoseconds(), from + 1);
    if (bins.size() <= static_cast<size_t>((to - 1) / size)) {
      bins.resize(static_cast<size_t>((to - 1) / size) + 1, 0);
    }
    for (int64_t b = from / size; b <= (to - 1) / size; ++b) {
      const int64_t inside = std::min(to, (b + 1) * size) - std::max(from, b * size);
      bins[static_cast<size_t>(b)] +=
          bytes * static_cast<double>(inside) / static_cast<double>(to - from);
    }
  }

  // What rounding to picoseconds, and of rates, puts beyond what a link can carry in a bin belongs
  // to the next one. rates: of each kind of link, by rank.
  void settle_rounding(const std::function<double(int64_t rank, LinkKind)>& bytes_per_second);

  using Bins = std::array<std::vector<double>, kLinkKinds>;  // bytes, by kind
  const std::map<int64_t, Bins>& loads() const { return loads_; }
  Duration bin() const { return bin_; }

 private:
  Duration bin_;
  std::map<int64_t, Bins> loads_;  // by rank
};

// As JSON, of every rank asked for, each with the rank that was simulated for it: bin_s, the links'
// rates, and bytes per bin by rank and kind.
std::string print_link_load(const LinkLoad& load,
                            const std::vector<std::pair<int64_t, int64_t>>& ranks,
                            const Cluster& cluster);

}  // namespace rehearse
