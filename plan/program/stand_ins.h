#pragma once
// Which data ranks of a layout are worked out, and which of those stands for each of the others.

#include <cstdint>
#include <vector>

#include "base/errors.h"

namespace rehearse {

// Data ranks are worked out in islands of equally many neighbours. A slot is a data rank that is
// worked out, counted from 0 island by island.
class StandIns {
 public:
  // Every data rank for itself. REQUIRES: island divides data_ranks.
  StandIns(int32_t data_ranks, int32_t island);
  // Data ranks in groups of `group` neighbours: group g does what group groups[g] does, which
  // stands for itself (groups[groups[g]] == groups[g]). whole: all data ranks of such a group are
  // worked out, as an island; else its first alone, which all of them do the same as.
  StandIns(const std::vector<int32_t>& groups, int32_t group, bool whole);

  int32_t island() const { return island_; }
  int32_t islands() const { return slots() / island_; }
  int32_t slots() const { return static_cast<int32_t>(data_rank_.size()); }
  int32_t data_rank(int32_t slot) const { return data_rank_[static_cast<size_t>(slot)]; }
  int32_t first(int32_t island) const { return data_rank(island * island_); }
  // Of the data rank itself, or of the one that stands for it.
  int32_t slot(int32_t data_rank) const { return slot_[static_cast<size_t>(data_rank)]; }
  int32_t island_of(int32_t data_rank) const { return slot(data_rank) / island_; }
  bool worked_out(int32_t data_rank) const { return this->data_rank(slot(data_rank)) == data_rank; }

 private:
  int32_t island_;
  std::vector<int32_t> slot_;       // by data rank
  std::vector<int32_t> data_rank_;  // by slot
};

}  // namespace rehearse
