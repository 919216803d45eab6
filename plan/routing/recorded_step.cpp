#include "plan/routing/recorded_step.h"

#include <algorithm>
#include <cmath>

namespace rehearse {

std::vector<int64_t> RecordedStep::expert_tokens(int64_t layer) const {
  std::vector<int64_t> tokens(static_cast<size_t>(shape.experts), 0);
  for (int64_t m = 0; m < shape.micro_batches; ++m) {
    for (const uint16_t e : of(m, layer)) ++tokens[e];
  }
  return tokens;
}

RecordedStep read_step(const RoutingReader& reader, int64_t index) {
  RecordedStep s{
      .shape = reader.shape(), .number = reader.steps()[static_cast<size_t>(index)], .choices = {}};
  s.shape.steps = 1;
  s.choices.resize(static_cast<size_t>(s.shape.micro_batches * s.shape.layers * s.shape.choices()));
  auto to = s.choices.begin();
  for (int64_t m = 0; m < s.shape.micro_batches; ++m) {
    for (int64_t layer = 0; layer < s.shape.layers; ++layer) {
      for (const int32_t e : reader.read(m, layer, index)) *to++ = static_cast<uint16_t>(e);
    }
  }
  return s;
}

void choose_slots(const Placement& p,
                  const std::vector<std::vector<int32_t>>& slots_of,
                  ReplicaChoice how,
                  std::span<const uint16_t> choices,
                  std::span<int32_t> slots) {
  if (!p.redundant() || how == ReplicaChoice::kInTurn) {
    std::vector<uint32_t> turn(static_cast<size_t>(p.experts), 0);
    for (size_t i = 0; i < choices.size(); ++i) {
      const auto& of = slots_of[choices[i]];
      slots[i] = of.size() == 1 ? of.front() : of[turn[choices[i]]++ % of.size()];
    }
    return;
  }
  std::vector<double> loads(static_cast<size_t>(p.experts), 0);
  for (const uint16_t e : choices) ++loads[e];
  const TokenSpread spread = best_spread(p, loads);
  // Whole tokens of every slot: shares rounded as their sums go.
  std::vector<int64_t> left(p.expert_of.size(), 0);
  for (const auto& of : slots_of) {
    double sum = 0;
    int64_t given = 0;
    for (const int32_t s : of) {
      sum += spread.slot_loads[static_cast<size_t>(s)];
      const int64_t whole = std::llround(sum);
      left[static_cast<size_t>(s)] = whole - given;
      given = whole;
    }
  }
  std::vector<uint32_t> at(static_cast<size_t>(p.experts), 0);
  for (size_t i = 0; i < choices.size(); ++i) {
    const auto& of = slots_of[choices[i]];
    uint32_t& k = at[choices[i]];
    while (k + 1 < of.size() && left[static_cast<size_t>(of[k])] == 0) ++k;
    --left[static_cast<size_t>(of[k])];
    slots[i] = of[k];
  }
}

}  // namespace rehearse
