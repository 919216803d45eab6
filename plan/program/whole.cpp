// require_whole: a Program read from a file is all of a step, and of that step alone.

#include <algorithm>
#include <map>
#include <tuple>

#include <fmt/format.h>

#include "plan/program/program.h"
#include "plan/schedules.h"

namespace rehearse {
namespace {

[[noreturn]] void bad(const std::string& why) {
  throw ScheduleError(why);
}

// What Program::build demands of a spec, and that the step is no larger than the file: a file of
// some lines shall not make a Program of billions.
void require_possible(const Program& p) {
  const Program::Spec& s = p.spec();
  const Layout& l = s.layout;
  constexpr int64_t kMostRanks = 1'000'000;
  if (l.pp > kMostRanks || l.stage_ranks() > kMostRanks) {
    bad("pp and dp x cp x tp must be at most 1,000,000");
  }
  if (l.zero_stage > 3) bad("zero must be 0 to 3");
  const ScheduleFacts& facts = facts_of(l.schedule);
  if (const std::string why = facts.check_ranks(l.pp); !why.empty()) bad("layout: " + why);
  if (const std::string why = facts.check_micro_batches(l.pp, s.micro_batches); !why.empty()) {
    bad("step: " + why);
  }
  int64_t layers = 0;
  for (size_t i = 0; i < l.layers_per_stage.size(); ++i) {
    const bool end =
        l.layers_per_stage.size() > 1 && (i == 0 || i + 1 == l.layers_per_stage.size());
    if (l.layers_per_stage[i] < (end ? 0 : 1)) {
      bad("layout: every stage between the first and the last needs at least one layer");
    }
    layers += l.layers_per_stage[i];
  }
  constexpr int64_t kMostModules = 100;
  if (s.mtp > kMostModules) bad(fmt::format("step: mtp of {}; at most {}", s.mtp, kMostModules));
  if (s.dense.last() >= layers + s.mtp) {
    bad(fmt::format("step: dense_layers to {} in a model of {}", s.dense.last(), layers));
  }
  if (s.micro_batches < 1) bad("step: micro_batches must be at least 1");
  if (s.mode == Mode::kPair && l.pp != 1) bad("step: mode pair is of one pipeline rank");
  int64_t cells = 0;
  for (int32_t r = 0; r < l.pp; ++r) cells += static_cast<int64_t>(p.schedule(r).size());
  const auto ops = static_cast<int64_t>(p.ops().size());
  if (s.micro_batches > 2 * cells || (s.granularity == Granularity::kOp && layers > ops)) {
    bad(fmt::format(
        "it has {} cells and {} ops, too few for {} micro-batches of {} layers: the file was cut "
        "off, or its head is of another Program",
        cells,
        ops,
        s.micro_batches,
        layers));
  }
}

// Which op it is: everything but its id and place.
using Key = std::tuple<std::string, Lane, Group, std::string>;
Key key_of(const Program& p, const Op& op) {
  const RankSchedule& cells = p.schedule(op.pp_rank);
  const auto at = static_cast<size_t>(op.cell);
  return {at < cells.size() ? to_string(cells[at]) : "end",
          op.lane,
          op.group,
          fmt::format("{} direction {}", to_string(op), op.direction)};
}
using Ids = std::map<Key, std::vector<int32_t>>;  // equal ones in order
std::vector<Ids> ids_by_rank(const Program& p) {
  std::vector<Ids> ids(static_cast<size_t>(p.layout().pp));
  for (const Op& op : p.ops()) {
    ids[static_cast<size_t>(op.pp_rank)][key_of(p, op)].push_back(op.id);
  }
  return ids;
}

void compare_cells(const Program& found, const Program& wanted, int32_t rank) {
  std::map<std::string, int64_t> missing;
  for (const Cell& c : wanted.schedule(rank)) ++missing[to_string(c)];
  for (const Cell& c : found.schedule(rank)) --missing[to_string(c)];
  for (const auto& [cell, count] : missing) {
    if (count > 0) {
      bad(fmt::format("rank {} has no cell {}, which its schedule, {}, has{}",
                      rank,
                      cell,
                      name_of(found.layout().schedule),
                      found.schedule(rank).size() < wanted.schedule(rank).size()
                          ? "; was the file cut off?"
                          : ""));
    }
    if (count < 0) {
      bad(fmt::format("rank {} has a cell {} that its schedule, {}, has not, or has it twice",
                      rank,
                      cell,
                      name_of(found.layout().schedule)));
    }
  }
}

}  // namespace

void require_whole(const Program& found) {
  require_possible(found);
  const Program wanted = Program::build(found.spec());
  if (found == wanted) return;
  for (int32_t r = 0; r < found.layout().pp; ++r) compare_cells(found, wanted, r);
  const std::vector<Ids> have = ids_by_rank(found);
  const std::vector<Ids> want = ids_by_rank(wanted);
  // Ids of `wanted` as ids of `found`.
  std::vector<int32_t> as_found(wanted.ops().size());
  for (size_t r = 0; r < want.size(); ++r) {
    for (const auto& [key, ids] : want[r]) {
      const auto there = have[r].find(key);
      const size_t count = there == have[r].end() ? 0 : there->second.size();
      if (count != ids.size()) {
        bad(fmt::format("cell {} of rank {} has {} x {} on lane {}; expected {}{}",
                        std::get<0>(key),
                        r,
                        count,
                        std::get<3>(key),
                        name_of(std::get<1>(key)),
                        ids.size(),
                        found.ops().size() < wanted.ops().size() ? "; was the file cut off?" : ""));
      }
      for (size_t i = 0; i < count; ++i) {
        as_found[static_cast<size_t>(ids[i])] = there->second[i];
      }
    }
    for (const auto& [key, ids] : have[r]) {
      if (want[r].contains(key)) continue;
      bad(fmt::format("op {} ({}, lane {}) does not belong to cell {} of rank {}",
                      ids.front(),
                      std::get<3>(key),
                      name_of(std::get<1>(key)),
                      std::get<0>(key),
                      r));
    }
  }
  for (const Op& op : wanted.ops()) {
    const int32_t id = as_found[static_cast<size_t>(op.id)];
    const auto there = found.dependencies(id);
    for (const int32_t d : wanted.dependencies(op.id)) {
      const int32_t needed = as_found[static_cast<size_t>(d)];
      if (std::ranges::find(there, needed) != there.end()) continue;
      bad(fmt::format("op {} ({}) does not wait for op {} ({}), whose result it needs",
                      id,
                      to_string(found.op(id)),
                      needed,
                      to_string(found.op(needed))));
    }
  }
}

}  // namespace rehearse
