#pragma once
// The routing of one recorded step in memory, and how its choices become slots of a placement.

#include <optional>

#include "plan/routing/replicas.h"
#include "plan/routing/routing_file.h"

namespace rehearse {

struct RecordedStep {
  RoutingShape shape;  // of one step
  int64_t number = 0;
  std::vector<uint16_t> choices;  // [micro-batch][layer][token][active]

  std::span<const uint16_t> of(int64_t micro_batch, int64_t layer) const {
    const auto size = static_cast<size_t>(shape.choices());
    const auto at = static_cast<size_t>(micro_batch * shape.layers + layer);
    return std::span(choices).subspan(at * size, size);
  }
  // Tokens of every expert of a layer, over all micro-batches.
  std::vector<int64_t> expert_tokens(int64_t layer) const;
};
// Throws as the reader does.
RecordedStep read_step(const RoutingReader& reader, int64_t index);

// How the tokens of a micro-batch are spread over an expert's replicas.
enum class ReplicaChoice : uint8_t {
  kInTurn,  // one after the other
  kSolved,  // as best_spread says for the micro-batch, token by token (LPLB)
};

// A micro-batch's choices as slots of the placement. choices: [tokens, active] experts.
void choose_slots(const Placement& placement,
                  const std::vector<std::vector<int32_t>>& slots_of,
                  ReplicaChoice how,
                  std::span<const uint16_t> choices,
                  std::span<int32_t> slots);

}  // namespace rehearse
