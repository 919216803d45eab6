#pragma once
// Room on a card for what comes to a rank's experts, whose number the host does not know when
// arrays are made. What finds none is counted; the step is then repeated with more.

#include <algorithm>
#include <cmath>

#include "plan/plan.h"

namespace rehearse {

struct CardRoom {
  // Twice what comes when all ranks get as much, or all that can come.
  explicit CardRoom(const Plan& plan)
      : share(std::min<double>(2, static_cast<double>(plan.layout.ep))),
        balanced(plan.micro_batch_tokens() * plan.model.architecture.active_experts) {}

  // Of at most so many.
  int64_t of(int64_t most) const {
    return std::min(most, static_cast<int64_t>(std::ceil(share * static_cast<double>(balanced))));
  }
  // Rows of `experts`, each's padded to 128, of tokens with so many choices.
  int64_t rows(int64_t tokens, int64_t active, int64_t experts) const {
    constexpr int64_t kTile = 128;
    const int64_t padding = std::min(experts, tokens * active) * (kTile - 1);
    const auto padded = static_cast<int64_t>(std::min(1.0, share) * static_cast<double>(padding));
    return (of(tokens * std::min(active, experts)) + padded + kTile - 1) / kTile * kTile;
  }
  // Tokens that come to a rank, of as many sent by each of `ranks`.
  int64_t arrivals(int64_t tokens, int64_t ranks) const { return of(tokens * ranks); }

  double share;      // of what comes when all ranks get as much
  int64_t balanced;  // choices of a micro-batch's tokens
};

}  // namespace rehearse
