#include "plan/program/program.h"

#include <algorithm>

#include "base/errors.h"

namespace rehearse {
namespace {

// Compressed rows: row i of the result is the values whose key is i, in order of appearance.
void compress(size_t rows,
              const std::vector<std::pair<int32_t, int32_t>>& pairs,
              std::vector<int32_t>& offsets,
              std::vector<int32_t>& values) {
  offsets.assign(rows + 1, 0);
  for (const auto& [row, value] : pairs) ++offsets[static_cast<size_t>(row) + 1];
  for (size_t i = 0; i < rows; ++i) offsets[i + 1] += offsets[i];
  values.resize(pairs.size());
  std::vector<int32_t> next(offsets.begin(), offsets.end() - 1);
  for (const auto& [row, value] : pairs) {
    values[static_cast<size_t>(next[static_cast<size_t>(row)]++)] = value;
  }
}

std::span<const int32_t> row(const std::vector<int32_t>& offsets,
                             const std::vector<int32_t>& values,
                             size_t i) {
  const auto first = static_cast<size_t>(offsets[i]);
  return std::span(values).subspan(first, static_cast<size_t>(offsets[i + 1]) - first);
}

}  // namespace

Program Program::assemble(Spec spec,
                          std::vector<RankSchedule> schedules,
                          std::vector<Op> ops,
                          const std::vector<std::vector<int32_t>>& dependencies) {
  CHECK(dependencies.size() == ops.size()) << dependencies.size() << " lists, " << ops.size();
  Program p;
  p.spec_ = std::move(spec);
  p.schedules_ = std::move(schedules);
  p.ops_ = std::move(ops);
  std::vector<std::pair<int32_t, int32_t>> forward, backward, lanes;
  for (size_t i = 0; i < p.ops_.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    CHECK(p.ops_[i].id == id) << "op ids count from 0";
    for (const int32_t d : dependencies[i]) {
      forward.emplace_back(id, d);
      backward.emplace_back(d, id);
    }
    lanes.emplace_back(p.ops_[i].pp_rank * kLanes + static_cast<int32_t>(p.ops_[i].lane), id);
  }
  compress(p.ops_.size(), forward, p.dependency_offsets_, p.dependencies_);
  compress(p.ops_.size(), backward, p.dependent_offsets_, p.dependents_);
  compress(p.schedules_.size() * kLanes, lanes, p.lane_offsets_, p.lane_ops_);
  return p;
}

std::span<const int32_t> Program::dependencies(int32_t id) const {
  return row(dependency_offsets_, dependencies_, static_cast<size_t>(id));
}

std::span<const int32_t> Program::dependents(int32_t id) const {
  return row(dependent_offsets_, dependents_, static_cast<size_t>(id));
}

std::span<const int32_t> Program::lane(int32_t pp_rank, Lane lane) const {
  return row(
      lane_offsets_, lane_ops_, static_cast<size_t>(pp_rank) * kLanes + static_cast<size_t>(lane));
}

std::vector<Place> Program::members(const Op& op, int32_t data_rank) const {
  const Layout& layout = spec_.layout;
  std::vector<Place> places;
  const auto add = [&](int64_t pp_rank, const RankGroup& group) {
    const int64_t first = group.first(data_rank);
    for (int64_t i = 0; i < group.size; ++i) {
      places.push_back(
          {static_cast<int32_t>(pp_rank), static_cast<int32_t>(group.member(first, i))});
    }
  };
  if (const auto group = group_in_stage(op.group, layout)) {
    add(op.pp_rank, *group);
    return places;
  }
  switch (op.group) {
    case Group::kStageReplicas:
    case Group::kExpertReplicas: {
      const RankGroup group = op.group == Group::kExpertReplicas ? layout.expert_replica_group()
                                                                 : layout.replica_group();
      for (int64_t copy = 0; copy < layout.copies(); ++copy) {
        add(layout.copies() == 1 ? op.pp_rank : layout.pp_rank_of(op.stage, copy), group);
      }
      std::sort(places.begin(), places.end());
      break;
    }
    case Group::kEmbeddings:
      for (const int64_t stage : {int64_t{0}, layout.stages() - 1}) {
        places.push_back(
            {static_cast<int32_t>(layout.pp_rank_of(stage, layout.slot_of(stage, 0))), data_rank});
      }
      std::sort(places.begin(), places.end());
      break;
    case Group::kWorld:
      for (int64_t r = 0; r < layout.pp; ++r) add(r, {1, layout.stage_ranks()});
      break;
    default:
      places.push_back({op.pp_rank, data_rank});
  }
  return places;
}

std::vector<OpId> Program::collective(OpId global) const {
  const Op& mine = op(global);
  const std::vector<Place> places = members(mine, data_rank(global));
  std::vector<OpId> ids;
  ids.reserve(places.size());
  for (const Place& place : places) {
    int32_t id = mine.id;
    if (place.pp_rank != mine.pp_rank) {
      // The op of the same kind and stage on another pipeline rank; one per rank and step.
      const auto candidates = lane(place.pp_rank, mine.lane);
      const auto found =
          std::find_if(candidates.rbegin(), candidates.rend(), [&](int32_t candidate) {
            const Op& o = ops_[static_cast<size_t>(candidate)];
            return o.kind == mine.kind && o.group == mine.group &&
                   (o.stage == mine.stage || mine.group == Group::kWorld ||
                    mine.group == Group::kEmbeddings);
          });
      if (found == candidates.rend()) {
        throw ScheduleError("rank " + std::to_string(place.pp_rank) + " has no op to match " +
                            to_string(mine) + " of rank " + std::to_string(mine.pp_rank));
      }
      id = *found;
    }
    ids.push_back(global_id(id, place.data_rank));
  }
  return ids;
}

bool Program::operator==(const Program& other) const {
  return spec_ == other.spec_ && schedules_ == other.schedules_ && ops_ == other.ops_ &&
         dependency_offsets_ == other.dependency_offsets_ && dependencies_ == other.dependencies_;
}

std::vector<MaterializedOp> materialize(const Program& program) {
  std::vector<MaterializedOp> all;
  all.reserve(static_cast<size_t>(program.global_size()));
  for (int32_t d = 0; d < program.replicas(); ++d) {
    for (const Op& op : program.ops()) {
      MaterializedOp m{.id = program.global_id(op.id, d),
                       .rank = program.global_rank({op.pp_rank, d}),
                       .op = op,
                       .dependencies = {}};
      for (const int32_t dependency : program.dependencies(op.id)) {
        m.dependencies.push_back(program.global_id(dependency, d));
      }
      all.push_back(std::move(m));
    }
  }
  return all;
}

}  // namespace rehearse
