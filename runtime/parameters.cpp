#include "runtime/parameters.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <fmt/format.h>

#include "runtime/random.h"

namespace rehearse {

StageParameters::StageParameters(const Plan& plan, int64_t stage, int64_t ep_rank) {
  const Architecture& a = plan.model.architecture;
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
  const auto matrix = [&](std::string name, int64_t rows, int64_t columns) {
    return add(std::move(name), Arena::kDense, rows, columns);
  };
  const auto gain = [&](std::string name, int64_t width) {
    const ParameterId id = add(std::move(name), Arena::kDense, 1, width);
    list.back().is_gain = true;
    return id;
  };
  const auto ffn = [&](const std::string& name, Arena arena, int64_t width) {
    const ParameterId gate_up = add(name + ".gate_up_proj", arena, 2 * width, a.hidden);
    return FfnIds{gate_up, add(name + ".down_proj", arena, a.hidden, width)};
  };

  if (stage == 0) embedding = matrix("model.embed_tokens", a.vocabulary, a.hidden);
  for (int64_t i = l.first_layer(stage); i < l.first_layer(stage + 1); ++i) {
    const std::string layer = fmt::format("model.layers.{}", i);
    const std::string attn = layer + ".self_attn";
    LayerIds ids;
    ids.input_norm = gain(layer + ".input_layernorm", a.hidden);
    if (a.q_lora) {
      ids.q_a = matrix(attn + ".q_a_proj", *a.q_lora, a.hidden);
      ids.q_a_norm = gain(attn + ".q_a_layernorm", *a.q_lora);
    }
    ids.q = matrix(attn + (a.q_lora ? ".q_b_proj" : ".q_proj"),
                   a.heads * a.qk_head(),
                   a.q_lora.value_or(a.hidden));
    ids.kv_a = matrix(attn + ".kv_a_proj_with_mqa", a.kv_lora + a.qk_rope, a.hidden);
    ids.kv_a_norm = gain(attn + ".kv_a_layernorm", a.kv_lora);
    ids.kv_b = matrix(attn + ".kv_b_proj", a.heads * (a.qk_nope + a.v_head), a.kv_lora);
    ids.o = matrix(attn + ".o_proj", a.hidden, a.heads * a.v_head);
    ids.post_norm = gain(layer + ".post_attention_layernorm", a.hidden);
    if (!a.is_moe(i)) {
      ids.dense = ffn(layer + ".mlp", Arena::kDense, a.dense_intermediate);
    } else {
      ids.gate = matrix(layer + ".mlp.gate", a.experts, a.hidden);
      if (a.shared_experts > 0) {
        ids.shared = ffn(
            layer + ".mlp.shared_experts", Arena::kDense, a.shared_experts * a.expert_intermediate);
      }
      const int64_t count = a.experts / l.ep;
      for (int64_t e = ep_rank * count; e < (ep_rank + 1) * count; ++e) {
        ids.experts.push_back(
            ffn(fmt::format("{}.mlp.experts.{}", layer, e), Arena::kExpert, a.expert_intermediate));
      }
    }
    layers.push_back(std::move(ids));
  }
  if (stage == l.stages() - 1) {
    final_norm = gain("model.norm", a.hidden);
    head = matrix("lm_head", a.vocabulary, a.hidden);
  }
}

void initialize(const StageParameters& where, int64_t seed, double std, ParameterValues& weights) {
  for (size_t i = 0; i < where.list.size(); ++i) {
    const Parameter& p = where.list[i];
    float* w = weights.of(static_cast<ParameterId>(i));
    if (p.is_gain) {
      std::fill(w, w + p.size(), 1.0f);
      continue;
    }
    Random random(stream_seed(static_cast<uint64_t>(seed), p.name));
    for (int64_t j = 0; j < p.size(); ++j) w[j] = static_cast<float>(std * random.normal());
  }
}

Shard shard_of(int64_t size, int64_t index, int64_t count) {
  const int64_t each = (size + count - 1) / count;
  return {std::min(size, index * each), std::min(size, (index + 1) * each)};
}

}  // namespace rehearse
