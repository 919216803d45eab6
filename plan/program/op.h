#pragma once
// One op of a Program: a piece of work of one rank, on one of its lanes.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "cost/op_kind.h"
#include "plan/layout.h"

namespace rehearse {

// A FIFO of ops: a CUDA stream, a thread. Pipeline traffic has its own lanes, per direction of the
// micro-batches it carries, and so have collectives of ranks that share matrices, a sequence, and
// weights (within cells).
enum class Lane : uint8_t {
  kCompute,
  kAllToAll,
  kSend0,
  kSend1,
  kRecv0,
  kRecv1,
  kTensor,
  kContext,
  kData,
};
constexpr int kLanes = 9;

// Who takes part in a collective op; the members follow from the rank's place (Program::members).
enum class Group : uint8_t {
  kNone,            // not a collective
  kExpertParallel,  // the EP ranks that share out one stage's experts
  kStageReplicas,  // every rank that holds the same weights of a stage (both copies under DualPipe)
  kExpertReplicas,  // the same experts
  kWorld,
  kTensorParallel,   // the TP ranks that share matrices
  kContextParallel,  // the CP ranks that share a sequence
  kExpertTensor,     // the ETP ranks that share experts' matrices
  kEmbeddings,       // the first stage's rank and the last's, which hold the same table
};
// Groups within a stage, which act within cells; none for others.
std::optional<RankGroup> group_in_stage(Group group, const Layout& layout);
// Whether members are of several pipeline ranks; all others run the op at hand itself.
bool spans_pipeline(Group group, const Layout& layout);

struct Op {
  int32_t id = 0;  // within one replica of the pipeline, from 0
  int32_t pp_rank = 0;
  Lane lane = Lane::kCompute;
  OpKind kind = OpKind::kAttn;
  Pass pass = Pass::kNone;
  Group group = Group::kNone;
  int32_t cell = 0;  // index in the rank's schedule; its length for the ops that end the step
  int32_t stage = 0;
  int32_t direction = 0;         // of the micro-batch, and so the copy of the stage it uses
  std::optional<int32_t> layer;  // of attn, mlp, dispatch, combine; MTP's follows the last
  std::optional<int32_t> micro_batch;
  std::optional<int32_t> peer;  // pipeline rank, of send and recv
  std::optional<OpKind> of;     // of gather, scatter, ring: the op whose work is shared

  bool operator==(const Op&) const = default;
};

std::string_view name_of(Lane lane);
std::string_view name_of(Group group);
std::optional<Lane> lane_named(std::string_view name);
std::optional<Group> group_named(std::string_view name);

// "attn.F s0 l3 m7", "send.B s1 m2 to 0", "grad_reduce s0 group replicas".
std::string to_string(const Op& op);

}  // namespace rehearse
