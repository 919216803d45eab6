// validate: a Program that passes can run to its end whatever the ops cost.

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "plan/program/program.h"

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
    if (op.stage < 0 || op.stage >= layout.stages()) bad(fmt::format("no stage {}", op.stage));
    if (op.direction < 0 || op.direction >= layout.slots()) {
      bad(fmt::format("no direction {}", op.direction));
    }
    if (op.micro_batch && *op.micro_batch >= program.spec().micro_batches) {
      bad(fmt::format("no micro-batch {}", *op.micro_batch));
    }
    if (op.peer && (*op.peer < 0 || *op.peer >= layout.pp))
      bad(fmt::format("no rank {}", *op.peer));
    const bool collects = op.lane == Lane::kAllToAll || op.lane == Lane::kTensor ||
                          op.lane == Lane::kContext || op.lane == Lane::kData;
    if (op.group != Group::kNone && !collects) {
      bad("a collective must stand on lane a2a, tensor, context or data, where its members meet in "
          "one order");
    }
    if (is_shared_work(op.kind) != op.of.has_value()) {
      bad("gather, scatter and ring are of an op (of=...), and no others are");
    }
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
  using Queue = std::pair<std::set<int64_t>, Lane>;
  std::map<Queue, std::map<int64_t, std::vector<std::string>>> orders;
  for (const Op& op : program.ops()) {
    if (!spans_pipeline(op.group, program.layout())) continue;
    std::set<int64_t> ranks;
    for (const Place& p : program.members(op, 0)) ranks.insert(program.global_rank(p));
    const std::string what = op.group == Group::kWorld || op.group == Group::kEmbeddings
                                 ? std::string(name_of(op.kind))
                                 : to_string(op);
    orders[{ranks, op.lane}][op.pp_rank].push_back(what);
  }
  for (const auto& [queue, by_rank] : orders) {
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

// Runs the Program with ops that take no time; what is left over waits in a circle. One replica of
// the pipeline is enough: all run the same ops, so that the members of a collective on other
// replicas are where those on this one are.
void check_progress(const Program& program) {
  std::vector<char> done(program.ops().size(), 0);
  std::vector<size_t> heads(static_cast<size_t>(program.layout().pp * kLanes), 0);
  const auto slot = [](int64_t pp_rank, Lane lane) {
    return static_cast<size_t>(pp_rank * kLanes + static_cast<int>(lane));
  };
  const auto head = [&](int32_t pp_rank, Lane lane) -> std::optional<int32_t> {
    const auto ops = program.lane(pp_rank, lane);
    const size_t at = heads[slot(pp_rank, lane)];
    return at == ops.size() ? std::nullopt : std::optional(ops[at]);
  };
  const auto waits_for = [&](int32_t id) -> std::optional<int32_t> {
    for (const int32_t d : program.dependencies(id)) {
      if (!done[static_cast<size_t>(d)]) return d;
    }
    return std::nullopt;
  };
  // The members of an op's collective on this replica.
  const auto members = [&](int32_t id) {
    std::vector<int32_t> ids{id};
    const Op& op = program.op(id);
    if (!spans_pipeline(op.group, program.layout())) return ids;
    for (const OpId m : program.collective(id)) {
      const int32_t other = program.op(m).id;
      if (std::find(ids.begin(), ids.end(), other) == ids.end()) ids.push_back(other);
    }
    return ids;
  };
  const auto at_head = [&](int32_t id) {
    const Op& op = program.op(id);
    return head(op.pp_rank, op.lane) == id;
  };

  bool moved = true;
  while (moved) {
    moved = false;
    for (int32_t rank = 0; rank < program.layout().pp; ++rank) {
      for (int lane = 0; lane < kLanes; ++lane) {
        const auto l = static_cast<Lane>(lane);
        for (auto id = head(rank, l); id; id = head(rank, l)) {
          if (waits_for(*id)) break;
          const std::vector<int32_t> all = members(*id);
          const bool met = std::all_of(
              all.begin(), all.end(), [&](int32_t m) { return at_head(m) && !waits_for(m); });
          if (!met) break;
          for (const int32_t m : all) {
            done[static_cast<size_t>(m)] = 1;
            ++heads[slot(program.op(m).pp_rank, program.op(m).lane)];
          }
          moved = true;
        }
      }
    }
  }

  std::string stuck;
  for (int32_t rank = 0; rank < program.layout().pp; ++rank) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto id = head(rank, static_cast<Lane>(lane));
      if (!id) continue;
      const auto dependency = waits_for(*id);
      stuck += fmt::format(
          "\n  rank {} lane {}: next {} waits for {}",
          program.global_rank({rank, 0}),
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
