#include "plan/program/memory.h"

#include <cmath>

namespace rehearse {
StageWeights stage_weights(const Plan& plan, int64_t stage) {
  const Architecture& a = plan.model.architecture;
  const ParameterCounts p = parameter_counts(a);
  const Layout& l = plan.layout;
  const int64_t experts = a.experts / l.ep;
  StageWeights w;
  const auto add_layer = [&](bool moe) {
    w.dense += p.attention + (moe ? p.gate + p.shared : p.dense_mlp);
    if (moe) w.expert += experts * p.expert;
  };
  const int64_t first = l.first_layer(stage);
  for (int64_t layer = first; layer < l.first_layer(stage + 1); ++layer) {
    add_layer(a.is_moe(layer));
  }
  if (stage == 0) w.dense += p.embedding;
  if (stage == l.stages() - 1) {
    w.dense += p.head;
    if (a.mtp_depth > 0) {
      add_layer(true);
      w.dense += p.mtp_projection;
      // Where the embedding stands on the same rank (DualPipe, DualPipeV) it is shared; else this
      // is a copy.
      const bool shared = l.slots() == 2 && l.schedule != ScheduleKind::kInterleaved;
      if (!shared && l.pp > 1) w.dense += p.embedding;
    }
  }
  return w;
}

namespace {

struct ElementBytes {
  int64_t weight, master, moment, activation;
};

ElementBytes element_bytes(Precision precision) {
  switch (precision) {
    case Precision::kFp32:
      return {.weight = 4, .master = 0, .moment = 4, .activation = 4};
    case Precision::kBf16:
      return {.weight = 2, .master = 4, .moment = 4, .activation = 2};
    case Precision::kFp8:  // report, section 3.3: moments BF16; activations cached mostly FP8
      return {.weight = 1, .master = 4, .moment = 2, .activation = 1};
  }
  CHECK(false) << "precision " << static_cast<int>(precision);
}

}  // namespace

int64_t activation_elements(const Architecture& a, int64_t layer) {
  const int64_t q_lora = a.q_lora.value_or(0);
  int64_t n = 4 * a.hidden + 2 * q_lora + a.heads * a.qk_head() + 2 * a.kv_lora + a.qk_rope +
              a.heads * (a.qk_nope + a.v_head) + a.heads * a.v_head + a.heads;
  if (a.is_moe(layer)) {
    n += a.experts + 2 * a.active_experts;
    n += a.active_experts * (a.hidden + 3 * a.expert_intermediate);
    n += 3 * a.shared_experts * a.expert_intermediate;
  } else {
    n += 3 * a.dense_intermediate;
  }
  return n;
}

namespace {

// Bytes that one token leaves behind in a layer on GPUs. RMSNorm, the MLA up-projections and SwiGLU
// are computed again in backward (report, section 3.2.3); under FP8 the inputs of products are kept
// in FP8, that of the projection behind attention in 12 bits (section 3.3.3). Rows of experts are
// counted as if every token went to `active_experts` ranks.
double kept_bytes(const Architecture& a, int64_t layer, bool fp8) {
  const double low = fp8 ? 1 : 2;
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  double bytes = 2 * 2 * d(a.hidden);                                   // both residuals
  bytes += 2 * d(a.q_lora.value_or(a.hidden) + a.kv_lora + a.qk_rope);  // compressed
  bytes += (fp8 ? 1.5 : 2) * d(a.heads * a.v_head) + 4 * d(a.heads);    // output, log-sum
  if (a.is_moe(layer)) {
    bytes += 4 * d(a.experts) + 8 * d(a.active_experts);
    bytes += low * d(a.active_experts) * d(a.hidden + 2 * a.expert_intermediate);
    bytes += low * d(2 * a.shared_experts * a.expert_intermediate);
  } else {
    bytes += low * d(2 * a.dense_intermediate);
  }
  return bytes;
}

}  // namespace

RankMemory rank_memory(const Plan& plan, int64_t pp_rank) {
  const Architecture& a = plan.model.architecture;
  const Layout& l = plan.layout;
  const ElementBytes bytes = element_bytes(plan.training.precision);
  const RankSchedule schedule = build_schedule(l, plan.training.micro_batches, pp_rank);
  const int64_t dense_replicas = l.copies() * l.dp;
  const int64_t expert_replicas = dense_replicas / l.ep;
  const auto share = [&](int64_t elements, int64_t replicas) {
    return l.zero_stage == 0 ? elements : (elements + replicas - 1) / replicas;
  };
  RankMemory m;
  for (int64_t direction = 0; direction < l.slots(); ++direction) {
    const int64_t stage = l.stage_of(pp_rank, direction);
    const StageWeights w = stage_weights(plan, stage);
    m.parameters += Bytes(w.dense + w.expert) * bytes.weight;
    m.gradients += Bytes(w.dense + w.expert) * 4;
    m.optimizer += Bytes(share(w.dense, dense_replicas) + share(w.expert, expert_replicas)) *
                   (bytes.master + 2 * bytes.moment);

    const int64_t held = peak_micro_batches(schedule, static_cast<int32_t>(direction));
    if (plan.cluster.device == DeviceKind::kGpu) {
      double per_token = 0;
      for (int64_t layer = l.first_layer(stage); layer < l.first_layer(stage + 1); ++layer) {
        per_token += kept_bytes(a, layer, plan.training.precision == Precision::kFp8);
      }
      const bool last = stage == l.stages() - 1;
      if (last && a.mtp_depth > 0) {
        per_token += kept_bytes(a, a.layers, plan.training.precision == Precision::kFp8);
      }
      m.activations +=
          Bytes(std::llround(per_token * static_cast<double>(plan.micro_batch_tokens() * held)));
      // Logits and their gradients exist for one micro-batch at a time.
      if (last) m.activations += Bytes(plan.micro_batch_tokens() * a.vocabulary * 4);
      continue;
    }
    int64_t per_token = 0;
    for (int64_t layer = l.first_layer(stage); layer < l.first_layer(stage + 1); ++layer) {
      per_token += activation_elements(a, layer);
    }
    if (stage == l.stages() - 1) per_token += 2 * a.hidden + a.vocabulary;
    m.activations += Bytes(per_token * plan.micro_batch_tokens() * held) * bytes.activation;
  }
  return m;
}

}  // namespace rehearse
