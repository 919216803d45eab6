#include "plan/program/op.h"

#include <fmt/format.h>

#include "base/names.h"

namespace rehearse {
namespace {

constexpr NameTable kLaneNames{std::to_array<Named<Lane>>({{Lane::kCompute, "compute"},
                                                           {Lane::kAllToAll, "a2a"},
                                                           {Lane::kSend0, "send0"},
                                                           {Lane::kSend1, "send1"},
                                                           {Lane::kRecv0, "recv0"},
                                                           {Lane::kRecv1, "recv1"},
                                                           {Lane::kTensor, "tensor"},
                                                           {Lane::kContext, "context"},
                                                           {Lane::kData, "data"}})};
static_assert(kLaneNames.complete() && kLaneNames.size() == kLanes);
constexpr NameTable kGroupNames{
    std::to_array<Named<Group>>({{Group::kNone, "none"},
                                 {Group::kExpertParallel, "ep"},
                                 {Group::kStageReplicas, "replicas"},
                                 {Group::kExpertReplicas, "expert_replicas"},
                                 {Group::kWorld, "world"},
                                 {Group::kTensorParallel, "tp"},
                                 {Group::kContextParallel, "cp"},
                                 {Group::kExpertTensor, "etp"},
                                 {Group::kEmbeddings, "embeddings"}})};
static_assert(kGroupNames.complete());

}  // namespace

std::optional<RankGroup> group_in_stage(Group group, const Layout& layout) {
  switch (group) {
    case Group::kExpertParallel:
      return layout.expert_group();
    case Group::kTensorParallel:
      return layout.tensor_group();
    case Group::kContextParallel:
      return layout.context_group();
    case Group::kExpertTensor:
      return layout.expert_tensor_group();
    default:
      return std::nullopt;
  }
}

bool spans_pipeline(Group group, const Layout& layout) {
  const bool replicas = group == Group::kStageReplicas || group == Group::kExpertReplicas;
  return group == Group::kWorld || group == Group::kEmbeddings ||
         (replicas && layout.copies() == 2);
}

std::string_view name_of(Lane lane) {
  return kLaneNames[lane];
}
std::string_view name_of(Group group) {
  return kGroupNames[group];
}
std::optional<Lane> lane_named(std::string_view name) {
  return kLaneNames.find(name);
}
std::optional<Group> group_named(std::string_view name) {
  return kGroupNames.find(name);
}

std::string to_string(const Op& op) {
  std::string text(name_of(op.kind));
  if (op.pass != Pass::kNone) text += fmt::format(".{}", name_of(op.pass));
  if (op.of) text += fmt::format(" of {}", name_of(*op.of));
  text += fmt::format(" s{}", op.stage);
  if (op.layer) text += fmt::format(" l{}", *op.layer);
  if (op.micro_batch) text += fmt::format(" m{}", *op.micro_batch);
  if (op.peer) {
    text += fmt::format(" {} {}", op.kind == OpKind::kSend ? "to" : "from", *op.peer);
  }
  if (op.group != Group::kNone) text += fmt::format(" group {}", name_of(op.group));
  return text;
}

}  // namespace rehearse
