#include "sim/price/op_costs.h"

#include <algorithm>
#include <map>
#include <tuple>

namespace rehearse {

OpCosts::OpCosts(const Plan& plan,
                 const Program& program,
                 const std::optional<Calibration>& calibration,
                 const CostVariation& variation,
                 const GroupLoad& load)
    : program_(program), work_(plan), price_(make_price(plan, work_, calibration, variation)) {
  std::vector<const MemberLoad*> kinds;
  for (const MemberLoad& m : load.members) {
    const auto same =
        std::find_if(kinds.begin(), kinds.end(), [&](const MemberLoad* k) { return *k == m; });
    member_class_.push_back(static_cast<size_t>(same - kinds.begin()));
    if (same == kinds.end()) kinds.push_back(&m);
  }
  members_ = kinds.size();
  using Key =
      std::tuple<OpKind, Pass, bool, bool, int32_t, Group, bool, std::optional<OpKind>, bool>;
  std::map<Key, int32_t> classes;
  std::vector<CostSources> sources_of_class;
  for (const Op& op : program.ops()) {
    const bool moe = op.layer && plan.model.architecture.is_moe(*op.layer);
    const bool pair = plan.cluster.of_gpus() && overlapped(op);
    const bool windowed = op.layer && plan.model.architecture.is_windowed(*op.layer);
    const Key key{op.kind,
                  op.pass,
                  moe,
                  windowed,
                  op.micro_batch && !is_ring(op.kind) ? 0 : op.stage,
                  op.group,
                  pair,
                  op.of,
                  op.layer.has_value()};
    const auto [at, fresh] = classes.emplace(key, static_cast<int32_t>(classes.size()));
    class_of_.push_back(at->second);
    if (!fresh) continue;
    const bool round = is_ring(op.kind) || is_shared_work(op.kind);
    const auto group = static_cast<int64_t>(round ? program.members(op, 0).size() : 1);
    CostSources once;
    for (size_t k = 0; k < kinds.size(); ++k) {
      // Members' loads matter to ops of layers with experts alone.
      if (k > 0 && !moe) {
        table_.push_back(table_.back());
        continue;
      }
      CostSources of_kind;
      table_.push_back(price_->of({op, *kinds[k], pair}, of_kind));
      table_.back().message = work_.message(op, group);
      sources_.add(of_kind);
      if (k == 0) once = std::move(of_kind);
    }
    sources_of_class.push_back(std::move(once));
  }
  // Seconds are of all ops, those of the first member's load.
  std::vector<int64_t> count(sources_of_class.size(), 0);
  for (const int32_t c : class_of_) ++count[static_cast<size_t>(c)];
  for (size_t c = 0; c < count.size(); ++c) {
    sources_.add_seconds(sources_of_class[c], static_cast<double>(count[c]));
  }
}

OpCost OpCosts::price(const Op& op, const MemberLoad& load) const {
  CostSources unused;
  OpCost cost = price_->of({op, load, overlapped(op)}, unused);
  const bool round = is_ring(op.kind) || is_shared_work(op.kind);
  cost.message =
      work_.message(op, static_cast<int64_t>(round ? program_.members(op, 0).size() : 1));
  return cost;
}

bool OpCosts::overlapped(const Op& op) const {
  const RankSchedule& schedule = program_.schedule(op.pp_rank);
  const auto cell = static_cast<size_t>(op.cell);
  return program_.layout().ep > 1 && cell < schedule.size() &&
         schedule[cell].kind == CellKind::kOverlapped;
}

}  // namespace rehearse
