#pragma once
// What every op of a Program costs: the plan's price, asked once per class of ops that cost the
// same.

#include <memory>
#include <optional>
#include <vector>

#include "sim/price/price.h"

namespace rehearse {

class OpCosts {
 public:
  // load: the counts that of() prices by; where they change, price_work() takes those of the
  // moment. Throws as make_price.
  OpCosts(const Plan& plan,
          const Program& program,
          const std::optional<Calibration>& calibration,
          const CostVariation& variation,
          const GroupLoad& load);
  OpCosts(const OpCosts&) = delete;  // price_ refers to work_
  OpCosts& operator=(const OpCosts&) = delete;

  // member: of the op's EP group, whose ranks may have different loads.
  const OpCost& of(const Op& op, int64_t member) const {
    const size_t of_class = static_cast<size_t>(class_of_[static_cast<size_t>(op.id)]);
    return table_[of_class * members_ + member_class_[static_cast<size_t>(member)]];
  }
  // All of it, for counts of the moment.
  OpCost price(const Op& op, const MemberLoad& load) const;
  LocalCost price_work(const Op& op, const MemberLoad& load) const {
    return price_->work({op, load, overlapped(op)});
  }
  std::optional<Duration> on_node(CollectiveKind kind, int64_t ranks, Bytes size) const {
    return price_->on_node(kind, ranks, size);
  }
  Overheads overheads() const { return price_->overheads(); }
  int64_t emulating_cores() const { return price_->emulating_cores(); }
  const CostSources& sources() const { return sources_; }

 private:
  bool overlapped(const Op& op) const;

  const Program& program_;
  OpWork work_;
  std::unique_ptr<Price> price_;
  // Ops of a class, and members of a class, cost the same.
  std::vector<int32_t> class_of_;     // by op of a replica
  std::vector<size_t> member_class_;  // by member
  size_t members_ = 1;                // classes of members
  std::vector<OpCost> table_;         // by class of op x class of member
  CostSources sources_;
};

}  // namespace rehearse
