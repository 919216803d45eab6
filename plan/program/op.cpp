#include "plan/program/op.h"

#include <array>

#include <fmt/format.h>

namespace rehearse {
namespace {

constexpr std::array<std::string_view, kLanes> kLaneNames = {
    "compute", "a2a", "send0", "send1", "recv0", "recv1"};
constexpr std::array<std::string_view, 15> kKindNames = {"attn",
                                                         "mlp",
                                                         "dispatch",
                                                         "combine",
                                                         "embed",
                                                         "head",
                                                         "mtp",
                                                         "send",
                                                         "recv",
                                                         "cell",
                                                         "grad_reduce",
                                                         "grad_norm",
                                                         "optimizer",
                                                         "param_gather",
                                                         "bias_update"};
constexpr std::array<std::string_view, 5> kGroupNames = {
    "none", "ep", "replicas", "expert_replicas", "world"};
constexpr std::array<std::string_view, 4> kPassNames = {"", "F", "B", "W"};

template <typename T, size_t N>
std::optional<T> named(const std::array<std::string_view, N>& names, std::string_view name) {
  for (size_t i = 0; i < N; ++i) {
    if (names[i] == name) return static_cast<T>(i);
  }
  return std::nullopt;
}

}  // namespace

std::string_view name_of(Lane lane) {
  return kLaneNames[static_cast<size_t>(lane)];
}
std::string_view name_of(OpKind kind) {
  return kKindNames[static_cast<size_t>(kind)];
}
std::string_view name_of(Group group) {
  return kGroupNames[static_cast<size_t>(group)];
}
std::string_view name_of(Pass pass) {
  return kPassNames[static_cast<size_t>(pass)];
}
std::optional<Lane> lane_named(std::string_view name) {
  return named<Lane>(kLaneNames, name);
}
std::optional<OpKind> op_kind_named(std::string_view name) {
  return named<OpKind>(kKindNames, name);
}
std::optional<Group> group_named(std::string_view name) {
  return named<Group>(kGroupNames, name);
}
std::optional<Pass> pass_named(std::string_view name) {
  return named<Pass>(kPassNames, name);
}

std::string to_string(OpName name) {
  return fmt::format("{}.{}", name_of(name.first), name_of(name.second));
}

std::optional<OpName> op_named(std::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos) return std::nullopt;
  const auto kind = op_kind_named(name.substr(0, dot));
  const auto pass = pass_named(name.substr(dot + 1));
  return kind && pass ? std::optional(OpName{*kind, *pass}) : std::nullopt;
}

bool is_cell_compute(OpKind kind) {
  return kind == OpKind::kAttn || kind == OpKind::kMlp || kind == OpKind::kEmbed ||
         kind == OpKind::kHead || kind == OpKind::kMtp || kind == OpKind::kCell;
}

bool is_all_to_all(OpKind kind) {
  return kind == OpKind::kDispatch || kind == OpKind::kCombine;
}

bool is_dispatch_shaped(OpKind kind, Pass pass) {
  return (kind == OpKind::kDispatch) == (pass == Pass::kForward);
}

std::string to_string(const Op& op) {
  std::string text(name_of(op.kind));
  if (op.pass != Pass::kNone) text += fmt::format(".{}", name_of(op.pass));
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
