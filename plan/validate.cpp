// validate: a Program that passes can run to its end whatever the ops cost.

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "plan/program.h"

namespace rehearse {
namespace {

std::string describe(const Program& program, OpId id) {
  return fmt::format("op {} ({}, rank {}, lane {})",
                     id,
                     to_string(program.op(id)),
                     program.global_rank(id),
                     name_of(program.op(id).lane));
}

void check_fields(const Program& program) {
  const Layout& layout = program.layout();
  for (const Op& op : program.ops()) {
    const auto bad = [&](const std::string& why) {
      throw ScheduleError(fmt::format("{}: {}", describe(program, op.id), why));
    };
    if (op.stage < 0 || op.stage >= layout.pp) bad(fmt::format("no stage {}", op.stage));
    if (op.direction < 0 || op.direction >= layout.directions()) {
      bad(fmt::format("no direction {}", op.direction));
    }
    if (op.micro_batch && *op.micro_batch >= program.spec().micro_batches) {
      bad(fmt::format("no micro-batch {}", *op.micro_batch));
    }
    if (op.peer && (*op.peer < 0 || *op.peer >= layout.pp))
      bad(fmt::format("no rank {}", *op.peer));
    for (const int32_t d : program.dependencies(op.id)) {
      const bool message =
          op.kind == OpKind::kRecv && program.ops()[static_cast<size_t>(d)].kind == OpKind::kSend;
      if (program.ops()[static_cast<size_t>(d)].pp_rank != op.pp_rank && !message) {
        bad(fmt::format("waits for {} of another rank; only a recv may, for its send",
                        describe(program, d)));
      }
    }
  }
}

void check_messages(const Program& program) {
  std::set<int32_t> taken;
  for (const Op& recv : program.ops()) {
    if (recv.kind != OpKind::kRecv) continue;
    int sends = 0;
    for (const int32_t d : program.dependencies(recv.id)) {
      const Op& send = program.ops()[static_cast<size_t>(d)];
      if (send.kind != OpKind::kSend) continue;
      ++sends;
      const bool match = send.peer == recv.pp_rank && recv.peer == send.pp_rank &&
                         send.micro_batch == recv.micro_batch && send.pass == recv.pass;
      if (!match || !taken.insert(d).second) {
        throw ScheduleError(fmt::format("{} takes {}, which is not its message",
                                        describe(program, recv.id),
                                        describe(program, d)));
      }
    }
    if (sends != 1) {
      throw ScheduleError(
          fmt::format("{} waits for {} sends, must be one", describe(program, recv.id), sends));
    }
  }
  for (const Op& send : program.ops()) {
    if (send.kind == OpKind::kSend && !taken.contains(send.id)) {
      throw ScheduleError(fmt::format("{} is received by nobody", describe(program, send.id)));
    }
  }
}

// Ranks of one data-parallel group run the same ops, so only groups that span pipeline ranks can
// disagree about order.
void check_collective_order(const Program& program) {
  std::map<std::set<int64_t>, std::map<int64_t, std::vector<std::string>>> orders;
  for (const Op& op : program.ops()) {
    if (op.group == Group::kNone || op.group == Group::kExpertParallel) continue;
    std::set<int64_t> ranks;
    for (const Place& p : program.members(op, 0)) ranks.insert(program.global_rank(p));
    const std::string what =
        op.group == Group::kWorld ? std::string(name_of(op.kind)) : to_string(op);
    orders[ranks][op.pp_rank].push_back(what);
  }
  for (const auto& [ranks, by_rank] : orders) {
    const auto& [first_rank, first] = *by_rank.begin();
    for (const auto& [rank, order] : by_rank) {
      if (order == first) continue;
      throw ScheduleError(fmt::format(
          "pipeline ranks {} and {} enqueue the collectives they share in different orders",
          first_rank,
          rank));
    }
  }
}

// Runs the Program with ops that take no time; what is left over waits in a circle.
void check_progress(const Program& program) {
  const auto size = static_cast<size_t>(program.global_size());
  const int64_t ranks = program.layout().pp * program.layout().dp;
  std::vector<char> done(size, 0);
  std::vector<size_t> heads(static_cast<size_t>(ranks * kLanes), 0);
  const auto slot = [](int64_t rank, int lane) {
    return static_cast<size_t>(rank * kLanes + lane);
  };
  const auto head = [&](int64_t rank, int lane) -> std::optional<OpId> {
    const auto pp_rank = static_cast<int32_t>(rank / program.layout().dp);
    const auto data_rank = static_cast<int32_t>(rank % program.layout().dp);
    const auto ops = program.lane(pp_rank, static_cast<Lane>(lane));
    const size_t at = heads[slot(rank, lane)];
    if (at == ops.size()) return std::nullopt;
    return program.global_id(ops[at], data_rank);
  };
  const auto waits_for = [&](OpId id) -> std::optional<OpId> {
    for (const int32_t d : program.dependencies(program.op(id).id)) {
      const OpId dependency = program.global_id(d, program.data_rank(id));
      if (!done[static_cast<size_t>(dependency)]) return dependency;
    }
    return std::nullopt;
  };
  const auto at_head = [&](OpId id) {
    return head(program.global_rank(id), static_cast<int>(program.op(id).lane)) == id;
  };

  bool moved = true;
  while (moved) {
    moved = false;
    for (int64_t rank = 0; rank < ranks; ++rank) {
      for (int lane = 0; lane < kLanes; ++lane) {
        for (auto id = head(rank, lane); id; id = head(rank, lane)) {
          if (waits_for(*id)) break;
          std::vector<OpId> members{*id};
          if (program.op(*id).group != Group::kNone) members = program.collective(*id);
          const bool all = std::all_of(
              members.begin(), members.end(), [&](OpId m) { return at_head(m) && !waits_for(m); });
          if (!all) break;
          for (const OpId m : members) {
            done[static_cast<size_t>(m)] = 1;
            ++heads[slot(program.global_rank(m), static_cast<int>(program.op(m).lane))];
          }
          moved = true;
        }
      }
    }
  }

  std::string stuck;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto id = head(rank, lane);
      if (!id) continue;
      const auto dependency = waits_for(*id);
      stuck += fmt::format(
          "\n  rank {} lane {}: next {} waits for {}",
          rank,
          name_of(static_cast<Lane>(lane)),
          describe(program, *id),
          dependency ? describe(program, *dependency) : "the other members of its group");
    }
  }
  if (!stuck.empty()) throw ScheduleError("the Program cannot run to its end:" + stuck);
}

}  // namespace

void validate(const Program& program) {
  check_fields(program);
  check_messages(program);
  check_collective_order(program);
  check_progress(program);
}

}  // namespace rehearse
