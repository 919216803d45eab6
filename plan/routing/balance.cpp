// Policies that place experts and replicas on ranks.
// The published one: DeepSeek's expert-parallel load balancer (EPLB, 2025), told again from its
// description. Ours: replicas by the same rule, then better packing (exchanges between the fullest
// rank and the others), then other numbers of replicas; small cases by branch and bound.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/errors.h"
#include "plan/routing/replicas.h"

namespace rehearse {
namespace {

// The order of descending weight, equal ones as they stand.
std::vector<int32_t> heaviest_first(const std::vector<double>& weights) {
  std::vector<int32_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
    return weights[static_cast<size_t>(a)] > weights[static_cast<size_t>(b)];
  });
  return order;
}

// Items to packs, heaviest first, each to the lightest pack that has room; equally many in all.
struct Packing {
  std::vector<int32_t> pack_of, place_of;  // by item: its pack, and its place there
};
Packing packed(const std::vector<double>& weights, int64_t packs) {
  const auto items = static_cast<int64_t>(weights.size());
  const int64_t room = items / packs;
  Packing p{.pack_of = std::vector<int32_t>(weights.size()),
            .place_of = std::vector<int32_t>(weights.size(), 0)};
  if (room == 1) {
    std::iota(p.pack_of.begin(), p.pack_of.end(), 0);
    return p;
  }
  std::vector<double> sums(static_cast<size_t>(packs), 0);
  std::vector<int32_t> counts(static_cast<size_t>(packs), 0);
  for (const int32_t item : heaviest_first(weights)) {
    int64_t lightest = -1;
    for (int64_t k = 0; k < packs; ++k) {
      if (counts[static_cast<size_t>(k)] == room) continue;
      if (lightest < 0 || sums[static_cast<size_t>(k)] < sums[static_cast<size_t>(lightest)]) {
        lightest = k;
      }
    }
    const auto at = static_cast<size_t>(lightest);
    p.pack_of[static_cast<size_t>(item)] = static_cast<int32_t>(lightest);
    p.place_of[static_cast<size_t>(item)] = counts[at]++;
    sums[at] += weights[static_cast<size_t>(item)];
  }
  return p;
}

// Replicas one after the other to the expert whose replicas have most.
std::vector<int32_t> replicated(const std::vector<double>& weights, int64_t slots) {
  std::vector<int32_t> expert_of(weights.size());
  std::iota(expert_of.begin(), expert_of.end(), 0);
  std::vector<double> counts(weights.size(), 1);
  while (static_cast<int64_t>(expert_of.size()) < slots) {
    size_t most = 0;
    for (size_t e = 1; e < weights.size(); ++e) {
      if (weights[e] / counts[e] > weights[most] / counts[most]) most = e;
    }
    expert_of.push_back(static_cast<int32_t>(most));
    ++counts[most];
  }
  return expert_of;
}

std::vector<int32_t> counts_of(const std::vector<int32_t>& expert_of, size_t experts) {
  std::vector<int32_t> counts(experts, 0);
  for (const int32_t e : expert_of) ++counts[static_cast<size_t>(e)];
  return counts;
}

void require_shape(const std::vector<double>& loads, const PlacementShape& s) {
  const auto experts = static_cast<int64_t>(loads.size());
  CHECK(s.ranks >= 1 && s.slots >= 1 && s.ranks * s.slots >= experts && experts % s.groups == 0 &&
        s.ranks % s.nodes == 0)
      << experts << " experts on " << s.ranks << " x " << s.slots;
}

// The published policy on `nodes` nodes, to which groups are packed first; with one node and one
// group, the global one.
std::vector<int32_t> published(const std::vector<double>& loads,
                               const PlacementShape& s,
                               int64_t groups,
                               int64_t nodes) {
  const auto experts = static_cast<int64_t>(loads.size());
  const int64_t size = experts / groups;
  std::vector<double> of_group(static_cast<size_t>(groups), 0);
  for (int64_t e = 0; e < experts; ++e) {
    of_group[static_cast<size_t>(e / size)] += loads[static_cast<size_t>(e)];
  }
  const Packing to_nodes = packed(of_group, nodes);
  const int64_t per_node = experts / nodes;
  std::vector<int32_t> by_node(static_cast<size_t>(experts));  // experts, node by node
  for (int64_t g = 0; g < groups; ++g) {
    const auto at = static_cast<size_t>(g);
    const int64_t first = (to_nodes.pack_of[at] * (groups / nodes) + to_nodes.place_of[at]) * size;
    for (int64_t i = 0; i < size; ++i) {
      by_node[static_cast<size_t>(first + i)] = static_cast<int32_t>(g * size + i);
    }
  }
  const int64_t slots_of_node = s.ranks / nodes * s.slots;
  std::vector<int32_t> expert_of(static_cast<size_t>(s.ranks * s.slots));
  for (int64_t node = 0; node < nodes; ++node) {
    std::vector<double> here;
    for (int64_t i = 0; i < per_node; ++i) {
      here.push_back(loads[static_cast<size_t>(by_node[static_cast<size_t>(node * per_node + i)])]);
    }
    const std::vector<int32_t> replicas = replicated(here, slots_of_node);
    const std::vector<int32_t> counts = counts_of(replicas, here.size());
    std::vector<double> sizes;
    for (const int32_t e : replicas) {
      sizes.push_back(here[static_cast<size_t>(e)] / counts[static_cast<size_t>(e)]);
    }
    const Packing to_ranks = packed(sizes, s.ranks / nodes);
    for (size_t i = 0; i < replicas.size(); ++i) {
      const int64_t slot =
          node * slots_of_node + to_ranks.pack_of[i] * s.slots + to_ranks.place_of[i];
      expert_of[static_cast<size_t>(slot)] =
          by_node[static_cast<size_t>(node * per_node + replicas[i])];
    }
  }
  return expert_of;
}

// --- ours

// Replicas of experts on ranks, each rank with equally many.
class Packer {
 public:
  Packer(const std::vector<double>& loads, int64_t ranks, int64_t slots)
      : loads_(loads), ranks_(static_cast<size_t>(ranks)), slots_(static_cast<size_t>(slots)) {}

  struct Packed {
    std::vector<int32_t> expert_of;  // [ranks x slots]
    double fullest = std::numeric_limits<double>::infinity();
  };

  // With so many replicas of every expert.
  Packed pack(const std::vector<int32_t>& counts) const {
    std::vector<int32_t> items;  // experts, the largest replicas first
    for (size_t e = 0; e < counts.size(); ++e) {
      items.insert(items.end(), static_cast<size_t>(counts[e]), static_cast<int32_t>(e));
    }
    std::vector<double> size(counts.size());
    for (size_t e = 0; e < counts.size(); ++e) size[e] = loads_[e] / counts[e];
    std::ranges::stable_sort(items, [&](int32_t a, int32_t b) {
      return size[static_cast<size_t>(a)] > size[static_cast<size_t>(b)];
    });
    std::vector<std::vector<int32_t>> ranks(ranks_);
    std::vector<double> sums(ranks_, 0);
    for (const int32_t e : items) {
      size_t lightest = ranks_;
      for (size_t r = 0; r < ranks_; ++r) {
        if (ranks[r].size() == slots_) continue;
        if (lightest == ranks_ || sums[r] < sums[lightest]) lightest = r;
      }
      ranks[lightest].push_back(e);
      sums[lightest] += size[static_cast<size_t>(e)];
    }
    exchange(size, ranks, sums);
    Packed p{.expert_of = {}, .fullest = *std::ranges::max_element(sums)};
    for (const auto& r : ranks) p.expert_of.insert(p.expert_of.end(), r.begin(), r.end());
    return p;
  }

 private:
  // Exchanges of two replicas that make the fullest rank's load less, as long as there are any.
  void exchange(const std::vector<double>& size,
                std::vector<std::vector<int32_t>>& ranks,
                std::vector<double>& sums) const {
    constexpr int kMost = 1000;
    for (int round = 0; round < kMost; ++round) {
      const auto full = static_cast<size_t>(std::ranges::max_element(sums) - sums.begin());
      double best = sums[full] * (1 - 1e-12);
      size_t from = 0, to = 0, rank = ranks_;
      for (size_t r = 0; r < ranks_; ++r) {
        if (r == full) continue;
        for (size_t i = 0; i < slots_; ++i) {
          const double mine = size[static_cast<size_t>(ranks[full][i])];
          for (size_t j = 0; j < slots_; ++j) {
            const double less = mine - size[static_cast<size_t>(ranks[r][j])];
            if (less <= 0) continue;
            const double then = std::max(sums[full] - less, sums[r] + less);
            if (then >= best) continue;
            best = then;
            from = i;
            to = j;
            rank = r;
          }
        }
      }
      if (rank == ranks_) return;
      const double less =
          size[static_cast<size_t>(ranks[full][from])] - size[static_cast<size_t>(ranks[rank][to])];
      std::swap(ranks[full][from], ranks[rank][to]);
      sums[full] -= less;
      sums[rank] += less;
    }
  }

  const std::vector<double>& loads_;
  size_t ranks_, slots_;
};

// The best numbers of replicas and their best packing, by depth-first search under a budget:
// experts by falling load, more replicas first; what cannot be better than the best known is left
// out.
class Exact {
 public:
  Exact(const std::vector<double>& loads, int64_t ranks, int64_t slots, double best)
      : loads_(loads),
        order_(heaviest_first(loads)),
        ranks_(ranks),
        slots_(slots),
        counts_(loads.size(), 1),
        best_(best) {
    double sum = 0;
    for (const double w : loads) sum += w;
    mean_ = sum / static_cast<double>(ranks);
  }

  // Nothing better than what was known, or not within the budget.
  std::vector<int32_t> run() {
    const int64_t extra = ranks_ * slots_ - static_cast<int64_t>(loads_.size());
    choose(0, extra);
    return found_;
  }

 private:
  static constexpr int64_t kBudget = 300'000;  // numbers of replicas, and placed items

  void choose(size_t at, int64_t extra) {
    if (--budget_ < 0 || best_ <= mean_ * (1 + 1e-12)) return;
    const auto e = static_cast<size_t>(order_[at]);
    if (at + 1 == order_.size()) {
      counts_[e] = static_cast<int32_t>(1 + extra);
      if (loads_[e] / counts_[e] < best_) pack();
      return;
    }
    // Of equal experts the earlier has no fewer.
    int64_t most = extra;
    if (at > 0 && loads_[static_cast<size_t>(order_[at - 1])] == loads_[e]) {
      most = std::min<int64_t>(most, counts_[static_cast<size_t>(order_[at - 1])] - 1);
    }
    most = std::min(most, ranks_ - 1);  // two on a rank are one
    for (int64_t more = 0; more <= most; ++more) {
      counts_[e] = static_cast<int32_t>(1 + more);
      if (loads_[e] / static_cast<double>(1 + more) < best_) choose(at + 1, extra - more);
    }
  }

  // Replicas by falling size, each to every rank that has room, of equal ranks to one.
  void pack() {
    items_.clear();
    for (size_t e = 0; e < counts_.size(); ++e) {
      items_.insert(items_.end(), static_cast<size_t>(counts_[e]), static_cast<int32_t>(e));
    }
    std::ranges::stable_sort(items_, [&](int32_t a, int32_t b) { return size(a) > size(b); });
    on_.assign(static_cast<size_t>(ranks_), {});
    sums_.assign(static_cast<size_t>(ranks_), 0);
    smallest_.assign(static_cast<size_t>(slots_) + 1, 0);  // sums of the smallest so many
    for (int64_t k = 1; k <= slots_; ++k) {
      smallest_[static_cast<size_t>(k)] = smallest_[static_cast<size_t>(k - 1)] +
                                          size(items_[items_.size() - static_cast<size_t>(k)]);
    }
    place(0);
  }
  double size(int32_t e) const {
    return loads_[static_cast<size_t>(e)] / counts_[static_cast<size_t>(e)];
  }
  void place(size_t at) {
    if (--budget_ < 0) return;
    if (at == items_.size()) {
      best_ = *std::ranges::max_element(sums_);
      found_.clear();
      for (const auto& r : on_) found_.insert(found_.end(), r.begin(), r.end());
      return;
    }
    const double item = size(items_[at]);
    for (size_t r = 0; r < on_.size(); ++r) {
      if (static_cast<int64_t>(on_[r].size()) == slots_) continue;
      const auto room = static_cast<size_t>(slots_) - on_[r].size() - 1;
      if (sums_[r] + item + smallest_[room] >= best_ * (1 - 1e-12)) continue;
      bool tried = false;  // an equal rank
      for (size_t q = 0; q < r; ++q)
        tried |= on_[q].size() == on_[r].size() && sums_[q] == sums_[r];
      if (tried) continue;
      on_[r].push_back(items_[at]);
      sums_[r] += item;
      place(at + 1);
      on_[r].pop_back();
      sums_[r] -= item;
      if (on_[r].empty()) sums_[r] = 0;
    }
  }

  const std::vector<double>& loads_;
  std::vector<int32_t> order_;
  int64_t ranks_, slots_;
  std::vector<int32_t> counts_;
  double best_, mean_ = 0;
  int64_t budget_ = kBudget;
  std::vector<int32_t> items_, found_;
  std::vector<std::vector<int32_t>> on_;
  std::vector<double> sums_, smallest_;
};

// Replicas of hot experts just below `most`, the other slots for the larger of the rest. Empty
// where there are not slots enough.
std::vector<int32_t> counts_below(const std::vector<double>& loads, double most, int64_t slots) {
  std::vector<int32_t> counts(loads.size(), 1);
  int64_t left = slots - static_cast<int64_t>(loads.size());
  for (size_t e = 0; e < loads.size(); ++e) {
    if (loads[e] <= most) continue;
    const double needed = std::ceil(loads[e] / most - 1e-9);
    left -= static_cast<int64_t>(needed) - 1;
    if (left < 0) return {};
    counts[e] = static_cast<int32_t>(needed);
  }
  std::vector<std::pair<double, size_t>> rest;  // a heap
  for (size_t e = 0; e < loads.size(); ++e) {
    if (loads[e] <= most) rest.emplace_back(loads[e], e);
  }
  if (rest.empty()) return {};
  std::ranges::make_heap(rest);
  for (; left > 0; --left) {
    std::ranges::pop_heap(rest);
    const size_t e = rest.back().second;
    ++counts[e];
    rest.back().first = loads[e] / counts[e];
    std::ranges::push_heap(rest);
  }
  return counts;
}

std::vector<int32_t> balanced(const std::vector<double>& loads, int64_t ranks, int64_t slots) {
  const Packer packer(loads, ranks, slots);
  std::vector<int32_t> counts = counts_of(replicated(loads, ranks * slots), loads.size());
  Packer::Packed best = packer.pack(counts);
  const double mean = std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(ranks);
  // Hot replicas of which one, two, ... fill a rank: smaller ones fit together badly.
  for (int64_t together = 1; together <= slots; ++together) {
    for (const double part : {1.0, 0.98, 0.95, 0.9}) {
      if (best.fullest <= mean * 1.002) break;
      std::vector<int32_t> other =
          counts_below(loads, part * mean / static_cast<double>(together), ranks * slots);
      if (other.empty()) continue;
      Packer::Packed p = packer.pack(other);
      if (p.fullest >= best.fullest) continue;
      best = std::move(p);
      counts = std::move(other);
    }
  }
  // Near enough: more is lost to tokens that vary.
  constexpr double kNear = 1.002;
  constexpr int kTries = 60;
  bool better = true;
  for (int tries = 0; better && tries < kTries && best.fullest > kNear * mean;) {
    better = false;
    // One replica more of an expert on the fullest rank, one fewer of that which grows least by it.
    const std::vector<double> sums = [&] {
      std::vector<double> all(static_cast<size_t>(ranks), 0);
      for (size_t s = 0; s < best.expert_of.size(); ++s) {
        const auto e = static_cast<size_t>(best.expert_of[s]);
        all[s / static_cast<size_t>(slots)] += loads[e] / counts[e];
      }
      return all;
    }();
    const auto full = static_cast<size_t>(std::ranges::max_element(sums) - sums.begin());
    for (size_t i = 0; i < static_cast<size_t>(slots) && tries < kTries; ++i) {
      const auto more = static_cast<size_t>(best.expert_of[full * static_cast<size_t>(slots) + i]);
      size_t fewer = loads.size();
      for (size_t e = 0; e < loads.size(); ++e) {
        if (e == more || counts[e] == 1) continue;
        if (fewer == loads.size() ||
            loads[e] / (counts[e] - 1) < loads[fewer] / (counts[fewer] - 1))
          fewer = e;
      }
      if (fewer == loads.size()) break;
      std::vector<int32_t> other = counts;
      ++other[more];
      --other[fewer];
      ++tries;
      Packer::Packed p = packer.pack(other);
      if (p.fullest >= best.fullest * (1 - 1e-12)) continue;
      best = std::move(p);
      counts = std::move(other);
      better = true;
      break;
    }
  }
  // Few enough slots for all ways to be tried.
  constexpr int64_t kFew = 24;
  if (ranks * slots <= kFew && best.fullest > mean) {
    std::vector<int32_t> exact = Exact(loads, ranks, slots, best.fullest).run();
    if (!exact.empty()) return exact;
  }
  return best.expert_of;
}

}  // namespace

Placement published_placement(const std::vector<double>& loads, const PlacementShape& s) {
  require_shape(loads, s);
  const bool hierarchical = s.groups % s.nodes == 0 && s.ranks * s.slots % s.nodes == 0;
  return {.experts = static_cast<int64_t>(loads.size()),
          .slots = s.slots,
          .expert_of =
              hierarchical ? published(loads, s, s.groups, s.nodes) : published(loads, s, 1, 1)};
}

Placement balanced_placement(const std::vector<double>& loads, const PlacementShape& s) {
  require_shape(loads, s);
  return {.experts = static_cast<int64_t>(loads.size()),
          .slots = s.slots,
          .expert_of = balanced(loads, s.ranks, s.slots)};
}

Placement hierarchical_placement(const std::vector<double>& loads, const PlacementShape& s) {
  require_shape(loads, s);
  if (s.groups % s.nodes != 0) return balanced_placement(loads, s);
  const auto size = static_cast<int64_t>(loads.size()) / s.groups;
  std::vector<double> of_group(static_cast<size_t>(s.groups), 0);
  for (size_t e = 0; e < loads.size(); ++e) of_group[e / static_cast<size_t>(size)] += loads[e];
  // Groups to nodes as experts to ranks, none twice.
  const std::vector<int32_t> groups = balanced(of_group, s.nodes, s.groups / s.nodes);
  Placement p{.experts = static_cast<int64_t>(loads.size()), .slots = s.slots, .expert_of = {}};
  const auto per_node = static_cast<size_t>(s.groups / s.nodes);
  for (int64_t node = 0; node < s.nodes; ++node) {
    std::vector<int32_t> experts;
    for (size_t g = 0; g < per_node; ++g) {
      const int64_t group = groups[static_cast<size_t>(node) * per_node + g];
      for (int64_t i = 0; i < size; ++i) {
        experts.push_back(static_cast<int32_t>(group * size + i));
      }
    }
    std::vector<double> here;
    for (const int32_t e : experts) here.push_back(loads[static_cast<size_t>(e)]);
    for (const int32_t e : balanced(here, s.ranks / s.nodes, s.slots)) {
      p.expert_of.push_back(experts[static_cast<size_t>(e)]);
    }
  }
  return p;
}

Placement placement_by(PlacementPolicy policy,
                       const std::vector<double>& loads,
                       const PlacementShape& shape) {
  switch (policy) {
    case PlacementPolicy::kInOrder:
      return Placement::in_order(static_cast<int64_t>(loads.size()), shape.ranks);
    case PlacementPolicy::kPublished:
      return published_placement(loads, shape);
    case PlacementPolicy::kHierarchical:
      return hierarchical_placement(loads, shape);
    case PlacementPolicy::kGlobal:
      return balanced_placement(loads, shape);
  }
  return {};
}

PlacementBound placement_bound(const std::vector<double>& loads, const PlacementShape& s) {
  require_shape(loads, s);
  PlacementBound b;
  b.mean = std::accumulate(loads.begin(), loads.end(), 0.0) / static_cast<double>(s.ranks);
  const std::vector<int32_t> expert_of = replicated(loads, s.ranks * s.slots);
  const std::vector<int32_t> counts = counts_of(expert_of, loads.size());
  std::vector<double> sizes;
  for (const int32_t e : expert_of) {
    sizes.push_back(loads[static_cast<size_t>(e)] / counts[static_cast<size_t>(e)]);
  }
  std::ranges::sort(sizes);
  b.hottest = sizes.back();
  b.with_companions = b.hottest;
  for (int64_t i = 0; i + 1 < s.slots; ++i) b.with_companions += sizes[static_cast<size_t>(i)];
  return b;
}

}  // namespace rehearse
