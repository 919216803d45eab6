#include "plan/program/stand_ins.h"

#include <numeric>

namespace rehearse {

StandIns::StandIns(int32_t data_ranks, int32_t island)
    : island_(island), slot_(static_cast<size_t>(data_ranks)) {
  CHECK(data_ranks % island == 0) << data_ranks << " " << island;
  std::iota(slot_.begin(), slot_.end(), 0);
  data_rank_ = slot_;
}

StandIns::StandIns(const std::vector<int32_t>& groups, int32_t group, bool whole)
    : island_(whole ? group : 1) {
  std::vector<int32_t> first_slot(groups.size());
  for (size_t g = 0; g < groups.size(); ++g) {
    const auto by = static_cast<size_t>(groups[g]);
    CHECK(by <= g && groups[by] == groups[g]) << "group " << g << " is stood for by " << by;
    if (by == g) {
      first_slot[g] = slots();
      for (int32_t i = 0; i < island_; ++i) {
        data_rank_.push_back(static_cast<int32_t>(g) * group + i);
      }
    }
    for (int32_t i = 0; i < group; ++i) slot_.push_back(first_slot[by] + (whole ? i : 0));
  }
}

}  // namespace rehearse
