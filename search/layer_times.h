#pragma once
// What one micro-batch takes in a layer of each kind and in the model's ends, from the prices of
// its ops in the order of the Program's templates.

#include <array>
#include <optional>

#include "plan/plan.h"
#include "plan/routing/counts.h"
#include "sim/price/calibration.h"

namespace rehearse {

// Seconds of what one micro-batch does in one layer of a kind, collectives that stand in its way
// among it.
struct LayerTimes {
  double forward = 0, backward = 0, backward_input = 0, backward_weight = 0;
  double pair = 0;                               // forward beside another micro-batch's backward
  double least_forward = 0, least_backward = 0;  // computation alone, with all SMs
};

// What candidates of a block have in common.
struct BlockTimes {
  static constexpr size_t kKinds = 4;  // as Layers::of: 1 with experts, 2 with a window
  std::array<LayerTimes, kKinds> layer;
  // The model's ends: of one module's projection and head each.
  double embed_forward = 0, embed_weight = 0;
  double head_forward = 0, head_input = 0, head_weight = 0;
  double mtp_forward = 0, mtp_input = 0, mtp_weight = 0;
  double message = 0;       // a pipeline message from node to node
  double near_message = 0;  // within a node
  double step_byte = 0;     // of what streams through memory at a step's end, per byte
};

// plan: of one pipeline rank and as many data ranks as its groups need. load: of its EP groups.
// overlapped: its layers stand in pairs. Throws InputError as make_price.
BlockTimes block_times(const Plan& plan,
                       const std::optional<Calibration>& calibration,
                       const GroupLoad& load,
                       bool overlapped);

}  // namespace rehearse
