#include "runtime/layers/parameters.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include "base/random.h"
#include "plan/routing/placement.h"

namespace rehearse {

void LayerIds::set(Part part, ParameterId id) {
  switch (part) {
    case Part::kInputNorm:
      input_norm = id;
      return;
    case Part::kQueryDown:
      q_a = id;
      return;
    case Part::kQueryNorm:
      q_a_norm = id;
      return;
    case Part::kQueryUp:
    case Part::kQuery:
      q = id;
      return;
    case Part::kKeyValueDown:
      kv_a = id;
      return;
    case Part::kKeyValueNorm:
      kv_a_norm = id;
      return;
    case Part::kKeyValueUp:
      kv_b = id;
      return;
    case Part::kQkv:
      qkv = id;
      return;
    case Part::kQueryHeadNorm:
      q_head_norm = id;
      return;
    case Part::kKeyHeadNorm:
      k_head_norm = id;
      return;
    case Part::kOutput:
      o = id;
      return;
    case Part::kPostNorm:
      post_norm = id;
      return;
    case Part::kRouter:
      gate = id;
      return;
    default:
      CHECK(false) << name_of(part) << " is not of attention";
  }
}

StageParameters::StageParameters(const Plan& plan,
                                 int64_t stage,
                                 int64_t ep_rank,
                                 const std::vector<Placement>& placements) {
  const Layers model(plan.model.architecture);
  const Architecture& a = model.architecture;
  const Layout& l = plan.layout;
  const auto add = [&](std::string name, Arena arena, int64_t rows, int64_t columns) {
    int64_t& size = arena == Arena::kDense ? dense_size : expert_size;
    list.push_back({.name = std::move(name),
                    .arena = arena,
                    .offset = size,
                    .rows = rows,
                    .columns = columns});
    size += rows * columns;
    return static_cast<ParameterId>(list.size()) - 1;
  };
  const auto gain = [&](std::string name, int64_t width) {
    const ParameterId id = add(std::move(name), Arena::kDense, 1, width);
    list.back().is_gain = true;
    return id;
  };
  if (stage == 0) embedding = add("model.embed_tokens", Arena::kDense, a.vocabulary, a.hidden);
  const int64_t modules = l.is_last(stage) ? a.mtp_depth : 0;
  if (modules > 0 && stage > 0 && !l.ends_meet()) {
    embedding = add("model.embed_tokens", Arena::kDense, a.vocabulary, a.hidden);
    embedding_is_copy = true;
  }
  for (int64_t i = l.first_layer(stage); i < l.end_layer(stage) + modules; ++i) {
    if (i >= l.end_layer(stage)) {
      const std::string prefix = fmt::format("model.layers.{}.", i);
      MtpIds module;
      module.embedding_norm = gain(prefix + "enorm", a.hidden);
      module.hidden_norm = gain(prefix + "hnorm", a.hidden);
      module.projection = add(prefix + "eh_proj", Arena::kDense, a.hidden, 2 * a.hidden);
      list.back().is_linear = true;
      module.head_norm = gain(prefix + "shared_head.norm", a.hidden);
      mtp.push_back(module);
    }
    const Layer& layer = model.at(i);
    const std::string prefix = fmt::format("model.layers.{}.", i);
    const auto name = [&](Part part) { return prefix + std::string(name_of(part)); };
    LayerIds ids;
    for (const Step& step : layer.attention) {
      if (const auto* norm = std::get_if<Norm>(&step)) {
        ids.set(norm->part, gain(name(norm->part), norm->width));
      } else if (const auto* linear = std::get_if<Linear>(&step)) {
        ids.set(linear->part, add(name(linear->part), Arena::kDense, linear->out, linear->in));
        list.back().is_linear = linear->part != Part::kRouter;
      }
    }
    const auto ffn = [&](const Ffn& f) {
      const auto matrix = [&](const Linear& w) {
        const ParameterId id = add(name(w.part), Arena::kDense, w.out, w.in);
        list.back().is_linear = true;
        return id;
      };
      const ParameterId gate_up = matrix(f.gate_up);
      return FfnIds{gate_up, matrix(f.down)};
    };
    if (layer.dense) ids.dense = ffn(*layer.dense);
    if (layer.shared) ids.shared = ffn(*layer.shared);
    const int64_t experts = layer.experts ? l.experts_per_rank(a.experts) : 0;
    const Placement* const placed = placement_of(placements, a.moe_layers_before(i));
    for (int64_t slot = ep_rank * experts; slot < (ep_rank + 1) * experts; ++slot) {
      const int64_t e = placed == nullptr ? slot : placed->expert_of[static_cast<size_t>(slot)];
      const auto matrix = [&](const Linear& w) {
        const ParameterId id = add(prefix + expert_name(w.part, e), Arena::kExpert, w.out, w.in);
        list.back().is_linear = true;
        return id;
      };
      const ParameterId gate_up = matrix(layer.experts->gate_up);
      ids.experts.push_back({gate_up, matrix(layer.experts->down)});
    }
    layers.push_back(std::move(ids));
  }
  if (l.is_last(stage)) {
    final_norm = gain("model.norm", a.hidden);
    head = add("lm_head", Arena::kDense, a.vocabulary, a.hidden);
  }
}

ParameterValues::ParameterValues(const StageParameters& where,
                                 DType type,
                                 const Encoding& operands,
                                 Memory& memory)
    : where_(&where),
      dense_(type, where.dense_size, memory),
      expert_(type, where.expert_size, memory),
      operand_type_(operands) {
  if (operands.type == type) return;
  constexpr int64_t kWord = 8;  // that the copies' memory is told in, and a line's share of it
  constexpr int64_t kLine = 64;
  int64_t bytes = 0;
  for (const Parameter& p : where.list) {
    copies_.push_back(bytes);
    if (!p.is_linear) continue;
    const auto size = static_cast<int64_t>(Extent{operands.type, p.rows, p.columns}.buffer_bytes());
    bytes += (size + kLine - 1) / kLine * kLine;
  }
  operands_ = FlatValues(DType::kInt64, bytes / kWord, memory);
}

Array ParameterValues::copy_of(ParameterId id) const {
  const Parameter& p = at(id);
  const auto* const all = static_cast<const std::byte*>(operands_.array().data);
  return Array::in_buffer({operand_type_.type, p.rows, p.columns},
                          const_cast<std::byte*>(all) + copies_[static_cast<size_t>(id)]);
}

void ParameterValues::encode_operands(const Compute& compute, Arena a) const {
  if (operands_.empty()) return;
  for (size_t i = 0; i < where_->list.size(); ++i) {
    const Parameter& p = where_->list[i];
    const auto id = static_cast<ParameterId>(i);
    if (p.arena == a && p.is_linear) {
      compute.encode(array(id), copy_of(id), operand_type_.scales);
    }
  }
}

std::vector<float> first_values(const Parameter& p, int64_t seed, double std) {
  std::vector<float> values(static_cast<size_t>(p.size()), 1.0f);
  if (p.is_gain) return values;
  Random random(stream_seed(static_cast<uint64_t>(seed), p.name));
  for (float& v : values) v = static_cast<float>(std * random.normal());
  return values;
}

}  // namespace rehearse
