#include "sim/replay.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <fmt/format.h>

#include "base/integers.h"
#include "base/random.h"
#include "plan/program/memory.h"

namespace rehearse {

LayerReplayer::LayerReplayer(const Plan& plan,
                             const Program& program,
                             const std::optional<Calibration>& calibration)
    : plan_(plan), program_(program), calibration_(calibration) {}

namespace {

// Bytes that a group's members send and receive over the network and within nodes, per byte of a
// token's message.
struct PortLoads {
  explicit PortLoads(const GroupLoad& load)
      : out(load.members.size(), 0), in(out), near_out(out), near_in(out) {
    for (const ExchangeFlow& f : load.flows.across) add(f, out, in, across);
    for (const ExchangeFlow& f : load.flows.within) add(f, near_out, near_in, within);
  }
  static void add(const ExchangeFlow& f,
                  std::vector<int64_t>& from,
                  std::vector<int64_t>& to,
                  int64_t& sum) {
    if (f.from == f.to) return;
    from[static_cast<size_t>(f.from)] += f.tokens;
    to[static_cast<size_t>(f.to)] += f.tokens;
    sum += f.tokens;
  }
  static int64_t most(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
    return std::max(*std::ranges::max_element(a), *std::ranges::max_element(b));
  }
  std::vector<int64_t> out, in, near_out, near_in;
  int64_t across = 0, within = 0;
};

double exchange_seconds(const Plan& plan, const PortLoads& ports, Bytes token) {
  const Cluster& c = plan.cluster;
  const auto bytes = static_cast<double>(token.count());
  double time = 0;
  double latency = 0;
  if (c.network && ports.across > 0) {
    time = static_cast<double>(PortLoads::most(ports.out, ports.in)) * bytes /
           c.network->bandwidth.value();
    latency += c.network->latency.seconds();
  }
  if (c.node_link && ports.within > 0) {
    time = std::max(time,
                    static_cast<double>(PortLoads::most(ports.near_out, ports.near_in)) * bytes /
                        c.node_link->bandwidth.value());
    latency += c.node_link->latency.seconds();
  }
  return time + latency;
}

double seconds_of(const LocalCost& cost) {
  return std::max(cost.alone, cost.held).seconds();
}

constexpr int64_t kTile = 128;  // rows of grouped products

}  // namespace

std::vector<LayerReplay> LayerReplayer::layers(const RecordedStep& step,
                                               const ReplayedRouting& routing,
                                               TrafficMatrix* traffic) const {
  const Architecture& a = plan_.model.architecture;
  ExpertLoad load(plan_, &routing);
  const auto first = static_cast<int32_t>(a.first_moe_layer());
  const OpCosts costs(plan_, program_, calibration_, {}, load.of(first, 0, 0));
  const Bytes messages[] = {exchange_message(plan_, OpKind::kDispatch, Pass::kForward),
                            exchange_message(plan_, OpKind::kCombine, Pass::kForward),
                            exchange_message(plan_, OpKind::kDispatch, Pass::kInput),
                            exchange_message(plan_, OpKind::kCombine, Pass::kInput)};
  double all_messages = 0;
  for (const Bytes m : messages) all_messages += static_cast<double>(m.count());
  // An op of experts, for prices.
  const auto experts = std::ranges::find_if(program_.ops(), [&](const Op& op) {
    return op.kind == OpKind::kMlp && op.pass == Pass::kForward && op.layer && a.is_moe(*op.layer);
  });
  CHECK(experts != program_.ops().end()) << "no experts";
  std::vector<LayerReplay> all;
  int64_t place = 0;
  for (int32_t layer = 0; layer < a.layers + a.mtp_depth && place < step.shape.layers; ++layer) {
    if (!a.is_moe(layer)) continue;
    LayerReplay r{.layer = layer};
    const std::vector<int64_t> tokens = step.expert_tokens(place);
    r.experts = load_shape({tokens.begin(), tokens.end()});
    const int64_t groups = plan_.layout.expert_groups();
    const int64_t micro_batches = plan_.training.micro_batches;
    double count = 0;
    std::vector<int64_t> fullest(static_cast<size_t>(plan_.layout.ep), 0);
    double rows_sum = 0, padded = 0, sent_tokens = 0, across_tokens = 0;
    // As many as tell all: each is a draw, unless replay is exact.
    const int64_t of_groups = load.exact() ? groups : std::min<int64_t>(groups, 2);
    const int64_t of_micro_batches =
        load.exact() ? micro_batches : std::min<int64_t>(micro_batches, 16);
    for (int64_t g = 0; g < of_groups; ++g) {
      for (int32_t m = 0; m < of_micro_batches; ++m) {
        const GroupLoad& group = load.of(layer, m, g);
        ++count;
        size_t most = 0;
        int64_t sum = 0;
        std::vector<int64_t> rows;
        for (size_t i = 0; i < group.members.size(); ++i) {
          const auto& of = group.members[i].expert_rows;
          rows.push_back(std::accumulate(of.begin(), of.end(), int64_t{0}));
          for (const int64_t n : of) padded += static_cast<double>(round_up(n, kTile));
          if (rows[i] > rows[most]) most = i;
          sum += rows[i];
        }
        ++fullest[most];
        rows_sum += static_cast<double>(sum);
        const double mean = static_cast<double>(sum) / static_cast<double>(rows.size());
        r.fullest_rank += mean > 0 ? static_cast<double>(rows[most]) / mean - 1 : 0;
        const double alone = seconds_of(costs.price_work(*experts, group.members[most]));
        r.mlp += alone;
        // As many rows as the mean rank's, spread over experts as the fullest's are.
        MemberLoad of_mean = group.members[most];
        for (int64_t& n : of_mean.expert_rows) {
          n = std::llround(static_cast<double>(n) * mean /
                           std::max(1.0, static_cast<double>(rows[most])));
        }
        r.mlp_of_mean += seconds_of(costs.price_work(*experts, of_mean));
        const PortLoads ports(group);
        r.dispatch += exchange_seconds(plan_, ports, messages[0]);
        r.combine += exchange_seconds(plan_, ports, messages[1]);
        r.ib_bytes += static_cast<double>(ports.across) * all_messages;
        r.nvlink_bytes += static_cast<double>(ports.within) * all_messages;
        const bool network = ports.across > 0;
        const int64_t links = network ? ports.across : ports.within;
        const int64_t busiest = network ? PortLoads::most(ports.out, ports.in)
                                        : PortLoads::most(ports.near_out, ports.near_in);
        r.busiest_link += links == 0
                              ? 0
                              : static_cast<double>(busiest) * static_cast<double>(rows.size()) /
                                        static_cast<double>(links) -
                                    1;
        if (traffic != nullptr) {
          // Dispatch and the gradient of combine go out, the others come back.
          const double each = static_cast<double>(micro_batches) /
                              static_cast<double>(of_groups * of_micro_batches);
          const auto out = static_cast<double>((messages[0] + messages[3]).count()) * each;
          const auto back = static_cast<double>((messages[1] + messages[2]).count()) * each;
          for (const auto* phase : {&group.flows.across, &group.flows.within}) {
            for (const ExchangeFlow& f : *phase) {
              if (f.from == f.to) continue;
              traffic->at(f.from, f.to) += static_cast<double>(f.tokens) * out;
              traffic->at(f.to, f.from) += static_cast<double>(f.tokens) * back;
            }
          }
        }
        across_tokens += static_cast<double>(ports.across);
        sent_tokens +=
            static_cast<double>(plan_.micro_batch_tokens()) * static_cast<double>(rows.size());
      }
    }
    for (double* mean : {&r.mlp, &r.mlp_of_mean, &r.dispatch, &r.combine}) *mean /= count;
    r.fullest_rank = 1 + (r.fullest_rank - 1) / count;
    r.busiest_link = 1 + (r.busiest_link - 1) / count;
    // Of the whole step.
    const double share = static_cast<double>(groups * micro_batches) / count;
    r.ib_bytes *= share;
    r.nvlink_bytes *= share;
    r.padding = rows_sum > 0 ? padded / rows_sum : 1;
    r.nodes_per_token = sent_tokens > 0 ? across_tokens / sent_tokens : 0;
    r.blamed = std::ranges::max_element(fullest) - fullest.begin();
    r.blamed_share = static_cast<double>(fullest[static_cast<size_t>(r.blamed)]) / count;
    all.push_back(std::move(r));
    ++place;
  }
  return all;
}

std::string why_not(const Plan& plan, const PlacementRequest& request) {
  const int64_t experts = plan.model.architecture.experts;
  const int64_t ep = plan.layout.ep;
  if ((experts + request.redundant) % ep != 0) {
    return fmt::format(
        "{} redundant experts: {} slots do not divide over the {} ranks of an EP group; {} or {} "
        "do",
        request.redundant,
        experts + request.redundant,
        ep,
        (experts + request.redundant) / ep * ep - experts,
        round_up(experts + request.redundant, ep) - experts);
  }
  if (request.redundant > 0 && request.policy == PlacementPolicy::kInOrder) {
    return "redundant experts need a policy that places them: published, hierarchical, global, "
           "best";
  }
  return "";
}

PlacementShape placement_shape(const Plan& plan, const PlacementRequest& request) {
  const ExpertGroup group(plan, 0, 0);
  const Architecture& a = plan.model.architecture;
  return {.ranks = plan.layout.ep,
          .slots = (a.experts + request.redundant) / plan.layout.ep,
          .nodes = group.nodes,
          .groups = a.groups};
}

std::vector<Placement> placements_for(const Plan& plan,
                                      const PlacementRequest& request,
                                      const std::vector<std::vector<double>>& loads) {
  const PlacementShape shape = placement_shape(plan, request);
  std::vector<Placement> all;
  for (const auto& of_layer : loads) all.push_back(placement_by(request.policy, of_layer, shape));
  return all;
}

SkewFit skew_like(const Plan& plan, double gini) {
  const auto of_skew = [&](double skew) {
    Plan one = plan;
    one.expert_load = {.synthetic = true, .skew = skew, .varies = LoadVaries::kMicroBatch};
    ExpertLoad load(one);
    const auto layer = static_cast<int32_t>(plan.model.architecture.first_moe_layer());
    std::vector<double> tokens(static_cast<size_t>(plan.model.architecture.experts), 0);
    constexpr int32_t kEnough = 8;
    for (int32_t m = 0; m < kEnough; ++m) {
      const GroupLoad& group = load.of(layer, m, 0);
      size_t e = 0;
      for (const MemberLoad& member : group.members) {
        for (const int64_t n : member.expert_rows) tokens[e++] += static_cast<double>(n);
      }
    }
    return load_shape(tokens).gini;
  };
  double low = 0, high = 10;
  for (int i = 0; i < 12; ++i) {
    const double skew = (low + high) / 2;
    (of_skew(skew) < gini ? low : high) = skew;
  }
  const double skew = (low + high) / 2;
  return {skew, of_skew(skew)};
}

Moved moved(const Plan& plan, const Placement& from, const Placement& to) {
  const Layers layers(plan.model.architecture);
  const double expert = static_cast<double>(layers.of(true).experts->parameters()) *
                        static_cast<double>(bytes_of(plan.training.precision).message);
  Moved m;
  for (int64_t rank = 0; rank < to.ranks(); ++rank) {
    const auto held =
        std::span(from.expert_of)
            .subspan(static_cast<size_t>(rank * from.slots), static_cast<size_t>(from.slots));
    std::vector<int32_t> had(held.begin(), held.end());
    double here = 0;
    for (int64_t s = rank * to.slots; s < (rank + 1) * to.slots; ++s) {
      const int32_t e = to.expert_of[static_cast<size_t>(s)];
      if (std::ranges::find(had, e) != had.end()) continue;
      had.push_back(e);
      here += expert;
    }
    m.bytes += here;
    m.most = std::max(m.most, here);
  }
  return m;
}

RecordedStep limited(const RecordedStep& step, int64_t groups, int64_t limit, uint64_t seed) {
  RecordedStep out = step;
  const RoutingShape& s = step.shape;
  const int64_t size = s.experts / groups;
  const auto active = static_cast<size_t>(s.active);
  CHECK(limit * size >= s.active) << limit << " groups of " << size;
  for (int64_t layer = 0; layer < s.layers; ++layer) {
    // Popularity within groups, summed up.
    std::vector<double> up_to(static_cast<size_t>(s.experts) + 1, 0);
    const std::vector<int64_t> tokens = step.expert_tokens(layer);
    for (size_t e = 0; e < tokens.size(); ++e) {
      up_to[e + 1] = up_to[e] + static_cast<double>(tokens[e]) + 1e-3;
    }
    for (int64_t m = 0; m < s.micro_batches; ++m) {
      uint64_t state = split_mix(seed ^ split_mix(static_cast<uint64_t>(layer * 1'000'003 + m)));
      const auto base = static_cast<size_t>((m * s.layers + layer) * s.choices());
      std::vector<int64_t> count(static_cast<size_t>(groups));
      std::vector<int64_t> order(static_cast<size_t>(groups));
      for (int64_t t = 0; t < s.tokens; ++t) {
        const auto chosen =
            std::span(out.choices).subspan(base + static_cast<size_t>(t) * active, active);
        std::ranges::fill(count, 0);
        for (const uint16_t e : chosen) ++count[static_cast<size_t>(e / size)];
        if (std::ranges::count_if(count, [](int64_t n) { return n > 0; }) <= limit) continue;
        std::iota(order.begin(), order.end(), 0);
        std::ranges::stable_sort(order, [&](int64_t a, int64_t b) {
          return count[static_cast<size_t>(a)] > count[static_cast<size_t>(b)];
        });
        const auto kept = std::span(order).first(static_cast<size_t>(limit));
        double weight = 0;
        for (const int64_t g : kept) {
          weight +=
              up_to[static_cast<size_t>((g + 1) * size)] - up_to[static_cast<size_t>(g * size)];
        }
        for (size_t i = 0; i < active; ++i) {
          if (std::ranges::find(kept, chosen[i] / size) != kept.end()) continue;
          for (;;) {
            state = split_mix(state);
            double at = static_cast<double>(state >> 11) * 0x1.0p-53 * weight;
            int64_t g = kept.back();
            for (const int64_t k : kept) {
              const double of =
                  up_to[static_cast<size_t>((k + 1) * size)] - up_to[static_cast<size_t>(k * size)];
              if (at < of) {
                g = k;
                break;
              }
              at -= of;
            }
            const auto begin = up_to.begin() + g * size;
            const auto found = std::upper_bound(begin, begin + size + 1, *begin + at) - begin - 1;
            const auto e =
                static_cast<uint16_t>(g * size + std::clamp<int64_t>(found, 0, size - 1));
            if (std::ranges::find(chosen, e) != chosen.end()) continue;
            chosen[i] = e;
            break;
          }
        }
      }
    }
  }
  return out;
}

}  // namespace rehearse
