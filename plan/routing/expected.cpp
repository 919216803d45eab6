#include "plan/routing/expected.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>

#include "base/random.h"

namespace rehearse {
namespace {

// Choices that every group of experts gets of each drawn token, group by group.
using Choices = std::vector<std::vector<int64_t>>;

Choices draw_choices(const Architecture& a) {
  constexpr int kTokens = 4096;
  const int64_t size = a.experts / a.groups;
  Random random(0x6a09e667f3bcc908ULL);
  // The best scores of a group's experts: -log of the times of the first of as many events.
  const auto best = static_cast<size_t>(std::min(std::max<int64_t>(2, a.active_experts), size));
  std::vector<std::vector<double>> times(static_cast<size_t>(a.groups), std::vector<double>(best));
  std::vector<std::pair<double, size_t>> groups(times.size()), experts;  // time, group
  Choices all;
  for (int t = 0; t < kTokens; ++t) {
    for (size_t g = 0; g < times.size(); ++g) {
      double time = 0;
      for (size_t i = 0; i < best; ++i) {
        time -= std::log(random.uniform()) / static_cast<double>(size - static_cast<int64_t>(i));
        times[g][i] = time;
      }
      groups[g] = {best > 1 ? times[g][0] * times[g][1] : times[g][0], g};
    }
    std::nth_element(groups.begin(), groups.begin() + (a.kept_groups - 1), groups.end());
    experts.clear();
    for (size_t k = 0; k < static_cast<size_t>(a.kept_groups); ++k) {
      for (const double time : times[groups[k].second])
        experts.emplace_back(time, groups[k].second);
    }
    std::nth_element(experts.begin(), experts.begin() + (a.active_experts - 1), experts.end());
    std::vector<int64_t> choices(times.size(), 0);
    for (size_t i = 0; i < static_cast<size_t>(a.active_experts); ++i) ++choices[experts[i].second];
    all.push_back(std::move(choices));
  }
  return all;
}

// That `chosen` of `size` experts, all sets of so many being as likely, are none of `these`.
double missed(int64_t size, int64_t these, int64_t chosen) {
  double p = 1;
  for (int64_t i = 0; i < chosen; ++i) {
    p *=
        static_cast<double>(std::max<int64_t>(0, size - these - i)) / static_cast<double>(size - i);
  }
  return p;
}

// That a token goes to one of `blocks` equal blocks of neighbouring experts, mean over blocks.
double drawn_reach(const Architecture& a, const Choices& choices, int64_t blocks) {
  const int64_t size = a.experts / a.groups;
  const int64_t block = a.experts / blocks;
  double sum = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    for (const std::vector<int64_t>& of_token : choices) {
      double none = 1;
      for (int64_t g = b * block / size; g * size < (b + 1) * block; ++g) {
        const int64_t here =
            std::min((b + 1) * block, (g + 1) * size) - std::max(b * block, g * size);
        none *= missed(size, here, of_token[static_cast<size_t>(g)]);
      }
      sum += none;
    }
  }
  return 1 - sum / static_cast<double>(choices.size()) / static_cast<double>(blocks);
}

double reach(const Architecture& a, int64_t blocks) {
  if (a.kept_groups == a.groups) {
    return 1 - missed(a.experts, a.experts / blocks, a.active_experts);
  }
  struct Drawn {
    Choices choices;
    std::map<int64_t, double> reach;  // by blocks
  };
  static std::mutex lock;
  static std::map<std::array<int64_t, 4>, Drawn> known;
  const std::lock_guard guard(lock);
  Drawn& drawn = known[{a.experts, a.groups, a.kept_groups, a.active_experts}];
  if (drawn.choices.empty()) drawn.choices = draw_choices(a);
  const auto [at, fresh] = drawn.reach.try_emplace(blocks);
  if (fresh) at->second = drawn_reach(a, drawn.choices, blocks);
  return at->second;
}

}  // namespace

ExpectedReach expected_reach(const Architecture& a, const ExpertGroup& group) {
  if (group.dispatcher == Dispatcher::kAllGather) return {};
  return {.node = reach(a, group.nodes), .rank = reach(a, group.size)};
}

GroupLoad expected_load(const Plan& plan, const ExpertGroup& group) {
  const Architecture& a = plan.model.architecture;
  const int64_t tokens = plan.micro_batch_tokens();
  const int64_t rows = tokens * a.active_experts;  // of a rank's experts, as of a rank's tokens
  const auto times = [](double x, int64_t n) { return std::llround(x * static_cast<double>(n)); };
  MemberLoad member;
  const int64_t experts = group.experts_per_member;
  for (int64_t e = 0; e < experts; ++e) {
    member.expert_rows.push_back(rows / experts + (e < rows % experts ? 1 : 0));
  }
  int64_t across = 0, within = 0;  // tokens of a flow
  if (group.size > 1 && group.dispatcher == Dispatcher::kAllToAll) {
    const double pair = static_cast<double>(rows) / static_cast<double>(group.size);
    within = times(pair, group.nodes);
    across = times(pair, group.per_node);
    const int64_t away = times(pair, group.size - 1);
    member.exchange = {.sent = away, .received = away, .arrived = rows};
  } else if (group.size > 1) {
    const ExpectedReach reach = expected_reach(a, group);
    const double to_node = reach.node * static_cast<double>(tokens);
    const double to_rank = reach.rank * static_cast<double>(tokens);
    within = times(to_rank, group.nodes);
    across = times(to_node, 1);
    const int64_t to_nodes = times(to_node, group.nodes);
    const int64_t to_ranks = times(to_rank, group.size);
    member.exchange = {
        .sent = to_nodes, .received = to_nodes, .forwarded = to_ranks, .arrived = to_ranks};
  }
  GroupLoad load{.id = 0, .flows = {}, .members = {}, .symmetric = true};
  load.members.assign(static_cast<size_t>(group.size), member);
  for (int64_t from = 0; from < group.size && group.size > 1; ++from) {
    for (int64_t node = 0; node < group.nodes; ++node) {
      const int64_t to = group.member(node, group.position_of(from));
      if (to != from && across > 0) load.flows.across.push_back({from, to, across});
    }
    for (int64_t p = 0; p < group.per_node; ++p) {
      const int64_t to = group.member(group.node_of(from), p);
      if (to != from && within > 0) load.flows.within.push_back({from, to, within});
    }
  }
  return load;
}

}  // namespace rehearse
