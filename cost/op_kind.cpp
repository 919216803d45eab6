#include "cost/op_kind.h"

#include <fmt/format.h>

#include "base/names.h"

namespace rehearse {
namespace {

constexpr NameTable kOpKindNames{std::to_array<Named<OpKind>>({
    {OpKind::kAttn, "attn"},
    {OpKind::kMlp, "mlp"},
    {OpKind::kDispatch, "dispatch"},
    {OpKind::kCombine, "combine"},
    {OpKind::kEmbed, "embed"},
    {OpKind::kHead, "head"},
    {OpKind::kMtp, "mtp"},
    {OpKind::kSend, "send"},
    {OpKind::kRecv, "recv"},
    {OpKind::kCell, "cell"},
    {OpKind::kGradReduce, "grad_reduce"},
    {OpKind::kGradNorm, "grad_norm"},
    {OpKind::kOptimizer, "optimizer"},
    {OpKind::kParamGather, "param_gather"},
    {OpKind::kBiasUpdate, "bias_update"},
    {OpKind::kGather, "gather"},
    {OpKind::kScatter, "scatter"},
    {OpKind::kRing, "ring"},
    {OpKind::kQkv, "qkv"},
})};
static_assert(kOpKindNames.complete());

constexpr NameTable kPassNames{std::to_array<Named<Pass>>({{Pass::kNone, ""},
                                                           {Pass::kForward, "F"},
                                                           {Pass::kInput, "B"},
                                                           {Pass::kWeight, "W"},
                                                           {Pass::kAgain, "R"}})};
static_assert(kPassNames.complete());

}  // namespace

const size_t kOpKinds = kOpKindNames.size();
const size_t kPasses = kPassNames.size();

std::string_view name_of(OpKind kind) {
  return kOpKindNames[kind];
}
std::string_view name_of(Pass pass) {
  return kPassNames[pass];
}
std::optional<OpKind> op_kind_named(std::string_view name) {
  return kOpKindNames.find(name);
}
std::optional<Pass> pass_named(std::string_view name) {
  return kPassNames.find(name);
}

std::string to_string(OpName name) {
  return name.second == Pass::kNone
             ? std::string(name_of(name.first))
             : fmt::format("{}.{}", name_of(name.first), name_of(name.second));
}

std::optional<OpName> op_named(std::string_view name) {
  const size_t dot = name.rfind('.');
  if (dot == std::string_view::npos || dot + 1 == name.size()) return std::nullopt;
  const auto kind = op_kind_named(name.substr(0, dot));
  const auto pass = pass_named(name.substr(dot + 1));
  return kind && pass ? std::optional(OpName{*kind, *pass}) : std::nullopt;
}

bool is_cell_compute(OpKind kind) {
  return kind == OpKind::kAttn || kind == OpKind::kMlp || kind == OpKind::kEmbed ||
         kind == OpKind::kHead || kind == OpKind::kMtp || kind == OpKind::kCell ||
         kind == OpKind::kQkv;
}

bool is_shared_work(OpKind kind) {
  return kind == OpKind::kGather || kind == OpKind::kScatter || kind == OpKind::kRing;
}

bool is_all_to_all(OpKind kind) {
  return kind == OpKind::kDispatch || kind == OpKind::kCombine;
}

bool is_dispatch_shaped(OpKind kind, Pass pass) {
  return (kind == OpKind::kDispatch) == (work_of(pass) == Pass::kForward);
}

bool is_ring(OpKind kind) {
  return kind == OpKind::kGradReduce || kind == OpKind::kParamGather;
}

}  // namespace rehearse
