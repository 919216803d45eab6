#pragma once
// Replay: what recorded routing means for a plan's layers, ranks and links, under a placement.

#include "plan/routing/load_shape.h"
#include "sim/expert_load.h"
#include "sim/price/op_costs.h"

namespace rehearse {

// A layer over the micro-batches of a step. Bytes are of all ranks and of the step's four
// all-to-alls per micro-batch (dispatch and combine, forward and backward); times are of one
// micro-batch, means over all of them.
struct LayerReplay {
  int64_t layer = 0;
  LoadShape experts;        // tokens of experts over the step
  double fullest_rank = 1;  // rows of the fullest rank of an EP group over the mean's
  int64_t blamed = 0;       // the member of EP groups that most often is the fullest
  double blamed_share = 0;  // how often
  double ib_bytes = 0, nvlink_bytes = 0;
  double busiest_link =
      1;  // bytes of the busiest port over the mean's, of the network, else NVLink
  double nodes_per_token = 0;
  double dispatch = 0, combine = 0;  // seconds that the busiest port needs, forward
  double mlp = 0, mlp_of_mean = 0;   // seconds of the experts' forward: fullest rank, mean
  double padding = 1;                // rows over what they are, in tiles of 128
  // Seconds that a micro-batch's experts and all-to-alls take, forward and backward: of the
  // fullest ranks.
  double seconds() const { return 3 * mlp + 2 * (dispatch + combine); }
};

// Bytes that travel in a step between members of an EP group, means over groups, all layers and
// all-to-alls: [from][to]. A token for another node goes to the same place there, and on from it.
class TrafficMatrix {
 public:
  explicit TrafficMatrix(int64_t members)
      : members_(members), bytes_(static_cast<size_t>(members * members), 0) {}
  int64_t members() const { return members_; }
  double& at(int64_t from, int64_t to) { return bytes_[static_cast<size_t>(from * members_ + to)]; }
  double at(int64_t from, int64_t to) const {
    return const_cast<TrafficMatrix*>(this)->at(from, to);
  }

 private:
  int64_t members_ = 0;
  std::vector<double> bytes_;
};

// All layers that the trace has. The plan's EP groups, micro-batches and prices; the ranks' routing
// as `load` has it.
class LayerReplayer {
 public:
  LayerReplayer(const Plan& plan,
                const Program& program,
                const std::optional<Calibration>& calibration);
  // traffic: this step's is added, where it is wanted.
  std::vector<LayerReplay> layers(const RecordedStep& step,
                                  const ReplayedRouting& routing,
                                  TrafficMatrix* traffic = nullptr) const;

 private:
  void add(const GroupLoad& load, int32_t layer, LayerReplay& to) const;

  const Plan& plan_;
  const Program& program_;
  const std::optional<Calibration>& calibration_;
};

// A layer's placement: the policy's, for these loads of experts.
struct PlacementRequest {
  PlacementPolicy policy = PlacementPolicy::kInOrder;
  int64_t redundant = 0;  // further slots, of all ranks of an EP group
};
// Empty when the layout takes such a placement; else why not.
std::string why_not(const Plan& plan, const PlacementRequest& request);
PlacementShape placement_shape(const Plan& plan, const PlacementRequest& request);
// Of every layer of the trace.
std::vector<Placement> placements_for(const Plan& plan,
                                      const PlacementRequest& request,
                                      const std::vector<std::vector<double>>& loads);

// The skew of synthetic counts (plan key expert_load) whose experts are as uneven over a step as a
// trace's, whose mean Gini coefficient over layers this is; and what Gini it has.
struct SkewFit {
  double skew = 0, gini = 0;
};
SkewFit skew_like(const Plan& plan, double gini);

// Bytes of experts' weights that ranks must fetch to go from one placement to another, each slot
// whose expert its rank did not hold: of all ranks, and of the one that fetches most.
struct Moved {
  double bytes = 0, most = 0;
};
Moved moved(const Plan& plan, const Placement& from, const Placement& to);

// The step under a tighter group limit: a token keeps the experts of its `limit` groups with most
// of them, and others of these groups, drawn by popularity, take the places of the rest. An
// estimate: what a gate would have chosen was not recorded. groups: of experts.
RecordedStep limited(const RecordedStep& step, int64_t groups, int64_t limit, uint64_t seed);

}  // namespace rehearse
