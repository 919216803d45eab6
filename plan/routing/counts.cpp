#include "plan/routing/counts.h"

#include <algorithm>
#include <utility>

#include "base/integers.h"

namespace rehearse {

int64_t RoutingCounts::expert_rows(int64_t expert) const {
  int64_t sum = 0;
  for (const auto& of_source : rows) sum += of_source[static_cast<size_t>(expert)];
  return sum;
}

RoutingCounts count_routing(const ExpertGroup& group,
                            int64_t experts,
                            int64_t active,
                            const std::vector<std::span<const int32_t>>& choices) {
  RoutingCounts counts;
  const auto per_node = static_cast<size_t>(group.per_node);
  std::vector<uint32_t> rank_of(static_cast<size_t>(experts));
  for (size_t e = 0; e < rank_of.size(); ++e) {
    rank_of[e] = static_cast<uint32_t>(group.holder(static_cast<int64_t>(e)));
  }
  for (const auto& chosen : choices) {
    std::vector<int64_t> to_node(static_cast<size_t>(group.nodes), 0);
    std::vector<int64_t> to_rank(static_cast<size_t>(group.size), 0);
    std::vector<int64_t> rows(static_cast<size_t>(experts), 0);
    // The token that was last counted there.
    std::vector<int64_t> at_node(to_node.size(), -1), at_rank(to_rank.size(), -1);
    int64_t token = 0;
    for (size_t first = 0; first < chosen.size(); first += static_cast<size_t>(active), ++token) {
      for (size_t i = first; i < first + static_cast<size_t>(active); ++i) {
        const auto expert = static_cast<size_t>(chosen[i]);
        ++rows[expert];
        const size_t rank = rank_of[expert];
        if (std::exchange(at_rank[rank], token) == token) continue;
        ++to_rank[rank];
        const size_t node = rank / per_node;
        if (std::exchange(at_node[node], token) != token) ++to_node[node];
      }
    }
    counts.to_node.push_back(std::move(to_node));
    counts.to_rank.push_back(std::move(to_rank));
    counts.rows.push_back(std::move(rows));
  }
  return counts;
}

void balanced_choice(const Architecture& a, int64_t token, std::span<int32_t> chosen) {
  const int64_t size = a.experts / a.groups;
  const int64_t per_group = ceil_div(a.active_experts, a.kept_groups);
  // Choices take the kept groups in turn; within a group they lie as far apart as they can, so that
  // few share a rank, from a place that moves on each time all groups have been first.
  const int64_t apart = size / per_group;
  const int64_t first_group = token % a.groups;
  const int64_t first_within = token / a.groups % size;
  int64_t turn = 0;    // of the kept groups
  int64_t within = 0;  // the group
  for (int32_t& expert : chosen) {
    const int64_t group = (first_group + turn) % a.groups;
    const int64_t place = (first_within + within * apart) % size;
    expert = static_cast<int32_t>(group * size + place);
    if (++turn == a.kept_groups) {
      turn = 0;
      ++within;
    }
  }
}

RoutingCounts balanced_routing(const Plan& plan, const ExpertGroup& group) {
  const Architecture& a = plan.model.architecture;
  const auto active = static_cast<size_t>(a.active_experts);
  // Choices repeat after as many tokens as there are experts, and every source's are the same: one
  // period is counted, and what is left beyond whole periods.
  const int64_t tokens = plan.micro_batch_tokens();
  const auto count = [&](int64_t n) {
    std::vector<int32_t> chosen(static_cast<size_t>(n) * active);
    for (size_t t = 0; t * active < chosen.size(); ++t) {
      balanced_choice(a, static_cast<int64_t>(t), std::span(chosen).subspan(t * active, active));
    }
    return count_routing(group, a.experts, a.active_experts, {chosen});
  };
  RoutingCounts counts = count(tokens % a.experts);
  if (const int64_t periods = tokens / a.experts; periods > 0) {
    const RoutingCounts period = count(a.experts);
    const auto add = [&](std::vector<int64_t>& sum, const std::vector<int64_t>& more) {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += periods * more[i];
    };
    add(counts.to_node.front(), period.to_node.front());
    add(counts.to_rank.front(), period.to_rank.front());
    add(counts.rows.front(), period.rows.front());
  }
  const auto sources = static_cast<size_t>(group.size);
  counts.to_node.resize(sources, std::vector(counts.to_node.front()));
  counts.to_rank.resize(sources, std::vector(counts.to_rank.front()));
  counts.rows.resize(sources, std::vector(counts.rows.front()));
  return counts;
}

namespace {

// Rows of `src` for the experts of `to`.
int64_t rows_for(const ExpertGroup& group, const RoutingCounts& counts, int64_t src, int64_t to) {
  int64_t sum = 0;
  for (int64_t e = to * group.experts_per_member; e < (to + 1) * group.experts_per_member; ++e) {
    sum += counts.rows[static_cast<size_t>(src)][static_cast<size_t>(e)];
  }
  return sum;
}

using Rows = std::vector<std::vector<int64_t>>;  // [src][member]
Rows rows_between(const ExpertGroup& group, const RoutingCounts& counts) {
  Rows rows;
  for (int64_t src = 0; src < group.size; ++src) {
    rows.emplace_back();
    for (int64_t to = 0; to < group.size; ++to) {
      rows.back().push_back(rows_for(group, counts, src, to));
    }
  }
  return rows;
}

// Of a row per token and expert: within the node to its rank, or to the rank that has its rank's
// position, and from there across.
ExchangeFlows row_flows(const ExpertGroup& group, const Rows& rows) {
  ExchangeFlows flows;
  const auto at = [&](int64_t src, int64_t to) {
    return rows[static_cast<size_t>(src)][static_cast<size_t>(to)];
  };
  for (int64_t src = 0; src < group.size; ++src) {
    for (int64_t p = 0; p < group.per_node; ++p) {
      const int64_t by = group.member(group.node_of(src), p);
      int64_t passed = 0;
      for (int64_t node = 0; node < group.nodes; ++node) passed += at(src, group.member(node, p));
      if (by != src && passed > 0) flows.within.push_back({src, by, passed});
    }
    for (int64_t node = 0; node < group.nodes; ++node) {
      const int64_t to = group.member(node, group.position_of(src));
      int64_t sent = 0;
      for (int64_t p = 0; p < group.per_node; ++p) {
        sent += at(group.member(group.node_of(src), p), to);
      }
      if (to != src && sent > 0) flows.across.push_back({src, to, sent});
    }
  }
  return flows;
}

// Every token goes everywhere.
RoutingCounts to_everybody(const ExpertGroup& group, RoutingCounts counts) {
  for (size_t src = 0; src < counts.rows.size(); ++src) {
    int64_t rows = 0;
    for (const int64_t r : counts.rows[src]) rows += r;
    const int64_t tokens = rows / group.active_experts;
    counts.to_node[src].assign(counts.to_node[src].size(), tokens);
    counts.to_rank[src].assign(counts.to_rank[src].size(), tokens);
  }
  return counts;
}

}  // namespace

ExchangeFlows exchange_flows(const ExpertGroup& group, const RoutingCounts& counts) {
  if (group.dispatcher == Dispatcher::kAllToAll) {
    return row_flows(group, rows_between(group, counts));
  }
  ExchangeFlows flows;
  for (int64_t src = 0; src < group.size; ++src) {
    for (int64_t node = 0; node < group.nodes; ++node) {
      const int64_t tokens = counts.to_node[static_cast<size_t>(src)][static_cast<size_t>(node)];
      const int64_t to = group.member(node, group.position_of(src));
      if (to != src && tokens > 0) flows.across.push_back({src, to, tokens});
    }
  }
  for (int64_t from = 0; from < group.size; ++from) {
    for (int64_t p = 0; p < group.per_node; ++p) {
      const int64_t to = group.member(group.node_of(from), p);
      // `from` forwards for the sources of its own position on every node, itself among them.
      int64_t tokens = 0;
      for (int64_t node = 0; node < group.nodes; ++node) {
        const int64_t src = group.member(node, group.position_of(from));
        tokens += counts.to_rank[static_cast<size_t>(src)][static_cast<size_t>(to)];
      }
      if (to != from && tokens > 0) flows.within.push_back({from, to, tokens});
    }
  }
  return flows;
}

MemberLoad member_load(const ExpertGroup& group, const RoutingCounts& counts, int64_t member) {
  MemberLoad load;
  const int64_t first = member * group.experts_per_member;
  for (int64_t e = first; e < first + group.experts_per_member; ++e) {
    load.expert_rows.push_back(counts.expert_rows(e));
  }
  if (group.size == 1) return load;
  ExchangeTokens x;
  if (group.dispatcher == Dispatcher::kAllToAll) {
    // Rows on their way through another rank's memory take none of its SMs.
    for (int64_t other = 0; other < group.size; ++other) {
      const int64_t out = rows_for(group, counts, member, other);
      const int64_t in = rows_for(group, counts, other, member);
      x.sent += other == member ? 0 : out;
      x.received += other == member ? 0 : in;
      x.arrived += in;
    }
    load.exchange = x;
    return load;
  }
  const auto at = [](const auto& table, int64_t row, int64_t column) {
    return table[static_cast<size_t>(row)][static_cast<size_t>(column)];
  };
  const int64_t here = group.node_of(member);
  for (int64_t node = 0; node < group.nodes; ++node) {
    x.sent += at(counts.to_node, member, node);
    const int64_t source = group.member(node, group.position_of(member));
    x.received += at(counts.to_node, source, here);
    for (int64_t p = 0; p < group.per_node; ++p) {
      x.forwarded += at(counts.to_rank, source, group.member(here, p));
    }
  }
  for (int64_t source = 0; source < group.size; ++source) {
    x.arrived += at(counts.to_rank, source, member);
  }
  load.exchange = x;
  return load;
}

GroupLoad group_load(int64_t id, const ExpertGroup& group, const RoutingCounts& chosen) {
  const RoutingCounts counts =
      group.dispatcher == Dispatcher::kAllGather ? to_everybody(group, chosen) : chosen;
  GroupLoad load{.id = id, .flows = {}, .members = {}};
  if (group.size > 1) load.flows = exchange_flows(group, counts);
  for (int64_t m = 0; m < group.size; ++m) load.members.push_back(member_load(group, counts, m));
  const auto alike = [](const std::vector<ExchangeFlow>& flows) {
    return std::all_of(flows.begin(), flows.end(), [&](const ExchangeFlow& f) {
      return f.tokens == flows.front().tokens;
    });
  };
  const auto busy = [](const std::vector<ExchangeFlow>& flows, int64_t members) {
    std::vector<int64_t> in(static_cast<size_t>(members), 0), out = in;
    for (const ExchangeFlow& f : flows) {
      ++out[static_cast<size_t>(f.from)];
      ++in[static_cast<size_t>(f.to)];
    }
    return std::all_of(in.begin(), in.end(), [&](int64_t n) { return n == in.front(); }) &&
           out == in;
  };
  load.symmetric = alike(load.flows.across) && alike(load.flows.within) &&
                   busy(load.flows.across, group.size) && busy(load.flows.within, group.size) &&
                   std::all_of(load.members.begin(), load.members.end(), [&](const MemberLoad& m) {
                     return m == load.members.front();
                   });
  return load;
}

Bytes exchange_message(const Plan& plan, OpKind kind, Pass pass) {
  const Architecture& a = plan.model.architecture;
  const Precision precision = plan.training.precision;
  if (plan.layout.dispatcher != Dispatcher::kTwoHop) {
    constexpr int64_t kWeight = 4;
    const int64_t weights = kind == OpKind::kCombine ? 0
                            : plan.layout.dispatcher == Dispatcher::kAllToAll
                                ? 1
                                : 2 * a.active_experts;
    return Bytes(a.hidden * bytes_of(precision).message + weights * kWeight);
  }
  const int64_t choices = kind == OpKind::kCombine          ? 0
                          : work_of(pass) == Pass::kForward ? 2 * a.active_experts
                                                            : a.active_experts;
  constexpr int64_t kChoice = 4;
  const bool coded =
      is_dispatch_shaped(kind, pass) && plan.training.fp8.dispatch == Fp8Message::kFp8;
  const int64_t token =
      coded ? dispatched_bytes(precision, a.hidden) : a.hidden * bytes_of(precision).message;
  return Bytes(token + choices * kChoice);
}

}  // namespace rehearse
