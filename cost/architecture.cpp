#include "cost/architecture.h"

namespace rehearse {

ParameterCounts parameter_counts(const Architecture& a) {
  ParameterCounts p;
  const int64_t q_out = a.heads * a.qk_head();
  const int64_t query = a.q_lora ? *a.q_lora * (a.hidden + 1 + q_out) : a.hidden * q_out;
  const int64_t key_value =
      (a.kv_lora + a.qk_rope) * a.hidden + a.kv_lora + a.kv_lora * a.heads * (a.qk_nope + a.v_head);
  const int64_t output = a.heads * a.v_head * a.hidden;
  p.attention = query + key_value + output + 2 * a.hidden;
  p.dense_mlp = 3 * a.hidden * a.dense_intermediate;
  p.gate = a.experts * a.hidden;
  p.expert = 3 * a.hidden * a.expert_intermediate;
  p.shared = a.shared_experts * p.expert;
  p.embedding = a.vocabulary * a.hidden;
  p.head = a.vocabulary * a.hidden + a.hidden;
  p.mtp_projection = 2 * a.hidden * a.hidden + 3 * a.hidden;
  return p;
}

namespace {

int64_t parameters_with(const Architecture& a, int64_t routed_experts) {
  const ParameterCounts p = parameter_counts(a);
  const int64_t moe_layers = a.layers - a.dense_layers;
  return a.layers * p.attention + a.dense_layers * p.dense_mlp +
         moe_layers * (p.gate + p.shared + routed_experts * p.expert) + p.embedding + p.head;
}

}  // namespace

int64_t total_parameters(const Architecture& a) {
  return parameters_with(a, a.experts);
}
int64_t active_parameters(const Architecture& a) {
  return parameters_with(a, a.active_experts);
}

}  // namespace rehearse
