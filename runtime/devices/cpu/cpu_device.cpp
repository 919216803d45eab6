#include "runtime/devices/cpu/cpu_device.h"

#include <algorithm>
#include <cmath>

#include "kernels/adamw/adamw.h"
#include "kernels/embedding/embedding.h"
#include "plan/program/op_work.h"
#include "runtime/precise_sleep.h"

namespace rehearse {
namespace {

// Distinguishes a collective from every other of the step within its group, alike on every member.
// Even, so that an op of two phases may use the next one too.
uint64_t key_of(const Op& op) {
  const bool world = op.group == Group::kWorld;  // its members name the stage they hold
  uint64_t key = static_cast<uint64_t>(op.kind);
  const auto append = [&](int bits, int64_t value) {
    CHECK(value >= 0 && value < (int64_t{1} << bits)) << to_string(op) << ": " << value;
    key = (key << bits) | static_cast<uint64_t>(value);
  };
  append(2, static_cast<int64_t>(op.pass));
  append(3, static_cast<int64_t>(op.group));
  append(14, world ? 0 : op.stage);
  append(14, op.layer ? *op.layer + 1 : 0);
  append(22, op.micro_batch ? *op.micro_batch + 1 : 0);
  return key << 1;
}

uint64_t tag_of(const Op& op) {
  return (static_cast<uint64_t>(*op.micro_batch) << 1) |
         static_cast<uint64_t>(op.pass == Pass::kForward);
}

std::span<float> span_of(Tensor& t) {
  return {t.data(), static_cast<size_t>(t.size())};
}

}  // namespace

CpuDevice::CpuDevice(const Plan& plan,
                     const Program& program,
                     const TextData& data,
                     Communicator& communicator)
    : plan_(plan),
      program_(program),
      data_(data),
      communicator_(communicator),
      rope_(plan.training.sequence_length,
            plan.model.architecture.qk_rope,
            plan.model.architecture.rope_theta) {
  const Layout& l = plan.layout;
  for (int64_t r = 0; r < l.pp; ++r) {
    for (int64_t d = 0; d < l.dp; ++d) {
      auto rank = std::make_unique<Rank>();
      for (int64_t direction = 0; direction < l.slots(); ++direction) {
        rank->copies.emplace_back(plan, l.stage_of(r, direction), d % l.ep);
      }
      if (l.ep > 1) rank->experts.emplace(plan, r, d);
      ranks_.push_back(std::move(rank));
    }
  }
}

void CpuDevice::abort() {
  aborted_ = true;
  aborted_.notify_all();
  communicator_.abort();
}

void CpuDevice::begin_step(const StepSettings& settings) {
  settings_ = settings;
  overruns_ = 0;
  for (const auto& rank : ranks_) {
    rank->held_micro_batches = rank->peak_micro_batches = 0;
    for (Stage& s : rank->copies) {
      for (auto& load : s.expert_load) std::fill(load.begin(), load.end(), 0);
      for (ChunkActivations& c : s.chunks) c.loss = 0;
    }
  }
}

CpuDevice::Rank& CpuDevice::rank_of(const Op& op, int32_t data_rank) {
  return *ranks_[static_cast<size_t>(program_.global_rank({op.pp_rank, data_rank}))];
}

Stage& CpuDevice::stage(int64_t pp_rank, int32_t data_rank, int32_t direction) {
  const auto rank = program_.global_rank({static_cast<int32_t>(pp_rank), data_rank});
  return ranks_[static_cast<size_t>(rank)]->copies[static_cast<size_t>(direction)];
}

const Stage& CpuDevice::stage(int64_t pp_rank, int32_t data_rank, int32_t direction) const {
  return const_cast<CpuDevice*>(this)->stage(pp_rank, data_rank, direction);
}

LayerContext CpuDevice::context(Rank& rank) const {
  const Training& t = plan_.training;
  const double sequences =
      static_cast<double>(t.micro_batches * t.micro_batch_size * plan_.layout.dp);
  return {.model = plan_.model.architecture,
          .rope = rope_,
          .pool = rank.pool,
          .sequences = t.micro_batch_size,
          .length = t.sequence_length,
          .routing = plan_.routing,
          .balance_coefficient = t.balance_loss / sequences};
}

Batch CpuDevice::batch(const Op& op, int32_t data_rank) const {
  const Training& t = plan_.training;
  const int64_t first = (data_rank * t.micro_batches + *op.micro_batch) * t.micro_batch_size;
  return settings_.validation ? data_.validation(settings_.first_window + first, t.micro_batch_size)
                              : data_.training(settings_.step, first, t.micro_batch_size);
}

// Where the output of a layer goes: the next layer's input, or the chunk's output.
Tensor& CpuDevice::slot_after(ChunkActivations& chunk, size_t local_layer) {
  return local_layer + 1 < chunk.layers.size() ? chunk.layers[local_layer + 1].x : chunk.output;
}

void CpuDevice::run_op(const Op& op, int32_t data_rank, const std::function<void()>& ready) {
  if (fault_ == op.id && data_rank == 0 && !settings_.validation) {
    aborted_.wait(false);
    throw RunAborted();
  }
  const auto begin = std::chrono::steady_clock::now();
  work(op, data_rank, ready);
  // Messages take their time on the links; everything else holds its lane.
  const bool local =
      op.lane == Lane::kCompute || (is_all_to_all(op.kind) && op.group == Group::kNone);
  const bool held = plan_.cluster.device == DeviceKind::kEmulated && local;
  if (held) hold(op, data_rank, begin);
}

// Sleeps until the op has taken its time on the emulated device.
void CpuDevice::hold(const Op& op, int32_t data_rank, std::chrono::steady_clock::time_point begin) {
  MemberLoad load;
  if (op.layer && plan_.model.architecture.is_moe(*op.layer)) {
    Stage& s = rank_of(op, data_rank).copies[static_cast<size_t>(op.direction)];
    load.expert_rows = s.chunks[static_cast<size_t>(*op.micro_batch)]
                           .layers[s.local_layer(*op.layer)]
                           .rows.expert_rows;
  }
  const Duration target = roofline(plan_, op_work(plan_, op, load).all());
  const auto end = begin + std::chrono::nanoseconds(target.picoseconds() / 1000);
  if (std::chrono::steady_clock::now() > end) ++overruns_;
  sleep_until_exactly(end);
}

void CpuDevice::work(const Op& op, int32_t data_rank, const Ready& ready) {
  Rank& rank = rank_of(op, data_rank);
  switch (op.kind) {
    case OpKind::kSend:
    case OpKind::kRecv:
      message_op(op, rank, data_rank, ready);
      return;
    case OpKind::kGradReduce:
    case OpKind::kGradNorm:
    case OpKind::kOptimizer:
    case OpKind::kParamGather:
    case OpKind::kBiasUpdate:
      step_op(op, rank, data_rank, ready);
      return;
    case OpKind::kDispatch:
    case OpKind::kCombine:
      all_to_all_op(op, rank, ready);
      return;
    default:
      break;
  }
  if (op.pass == Pass::kForward) {
    forward_op(op, rank, data_rank);
  } else if (op.pass == Pass::kInput) {
    input_op(op, rank, data_rank);
  } else {
    weight_op(op, rank, data_rank);
  }
}

void CpuDevice::forward_op(const Op& op, Rank& rank, int32_t data_rank) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  if (op.kind == OpKind::kEmbed) {
    const Batch b = batch(op, data_rank);
    chunk.layers.front().x = c.tensor(c.model.hidden);
    kernels::embedding(
        b.inputs, c.model.hidden, s.weights.of(*s.where.embedding), chunk.layers.front().x.data());
    return;
  }
  if (op.kind == OpKind::kHead) {
    chunk.head.x = std::move(chunk.output);
    const HeadWeights w = s.head_weights();
    chunk.loss = head_forward(c, w, batch(op, data_rank).targets, chunk.head);
    if (settings_.validation) chunk.head = {};
    return;
  }
  const size_t local = s.local_layer(*op.layer);
  LayerActivations& a = chunk.layers[local];
  const LayerWeights w = s.layer_weights(local);
  switch (op.kind) {
    case OpKind::kAttn:
      if (local == 0) {
        ++rank.held_micro_batches;
        rank.peak_micro_batches = std::max(rank.peak_micro_batches, rank.held_micro_batches);
      }
      attention_forward(c, w, a);
      for (const int32_t e : a.chosen) ++s.expert_load[local][static_cast<size_t>(e)];
      if (record_choices_) s.choices[local][static_cast<size_t>(*op.micro_batch)] = a.chosen;
      return;
    case OpKind::kMlp:
      if (w.ids.gate) {
        experts_forward(c, w, a);
      } else {
        slot_after(chunk, local) = dense_forward(c, w, a);
        if (settings_.validation) a = {};
      }
      return;
    default:
      CHECK(false) << "no forward of " << to_string(op);
  }
}

void CpuDevice::all_to_all_op(const Op& op, Rank& rank, const Ready& ready) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  const size_t local = s.local_layer(*op.layer);
  LayerActivations& a = chunk.layers[local];
  std::optional<ExchangeCall> exchange;
  if (rank.experts) {
    exchange.emplace(ExchangeCall{.group = *rank.experts,
                                  .communicator = communicator_,
                                  .pool = rank.pool,
                                  .key = key_of(op),
                                  .ready = ready});
  }
  const ExchangeCall* call = exchange ? &*exchange : nullptr;
  const bool forward = op.pass == Pass::kForward;
  if (op.kind == OpKind::kDispatch) {
    forward ? dispatch_forward(c, call, a) : dispatch_input(c, call, a);
  } else if (forward) {
    slot_after(chunk, local) = combine_forward(c, call, a);
    if (settings_.validation) a = {};
  } else {
    combine_input(c, call, a);
  }
}

void CpuDevice::input_op(const Op& op, Rank& rank, int32_t data_rank) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  if (op.kind == OpKind::kHead) {
    const HeadWeights w = s.head_weights();
    const double scale = 1.0 / static_cast<double>(plan_.step_tokens());
    chunk.layers.back().d_out = head_input(c, w, batch(op, data_rank).targets, scale, chunk.head);
    return;
  }
  const size_t local = s.local_layer(*op.layer);
  LayerActivations& a = chunk.layers[local];
  const LayerWeights w = s.layer_weights(local);
  switch (op.kind) {
    case OpKind::kMlp:
      w.ids.gate ? experts_input(c, w, a) : dense_input(c, w, a);
      return;
    case OpKind::kAttn: {
      Tensor dx = attention_input(c, w, a);
      (local == 0 ? chunk.d_input : chunk.layers[local - 1].d_out) = std::move(dx);
      return;
    }
    default:
      CHECK(false) << "no backward of " << to_string(op);
  }
}

void CpuDevice::weight_op(const Op& op, Rank& rank, int32_t data_rank) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  if (op.kind == OpKind::kHead) {
    const HeadWeights w = s.head_weights();
    head_weight(c, w, chunk.head);
    chunk.head = {};
    return;
  }
  if (op.kind == OpKind::kEmbed) {
    kernels::embedding_backward(batch(op, data_rank).inputs,
                                c.model.hidden,
                                chunk.d_input.data(),
                                s.gradients.of(*s.where.embedding));
    chunk.d_input.release();
    return;
  }
  const size_t local = s.local_layer(*op.layer);
  LayerActivations& a = chunk.layers[local];
  const LayerWeights w = s.layer_weights(local);
  if (op.kind == OpKind::kMlp) {
    w.ids.gate ? experts_weight(c, w, a) : dense_weight(c, w, a);
  } else {
    CHECK(op.kind == OpKind::kAttn) << "no weight gradient of " << to_string(op);
    attention_weight(c, w, a);
    a = {};
    if (local == 0) --rank.held_micro_batches;
  }
}

void CpuDevice::message_op(const Op& op, Rank& rank, int32_t data_rank, const Ready& ready) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  const int64_t here = program_.global_rank({op.pp_rank, data_rank});
  const int64_t there = program_.global_rank({*op.peer, data_rank});
  const bool forward = op.pass == Pass::kForward;
  if (op.kind == OpKind::kSend) {
    Tensor& out = forward ? chunk.output : chunk.d_input;
    communicator_.send(here, there, tag_of(op), span_of(out));
    out.release();
  } else {
    Tensor& in = forward ? chunk.layers.front().x : chunk.layers.back().d_out;
    in = c.tensor(c.model.hidden);
    communicator_.recv(there, here, tag_of(op), span_of(in), ready);
  }
}

std::vector<int64_t> CpuDevice::ranks_of(const Op& op, int32_t data_rank) const {
  std::vector<int64_t> ranks;
  for (const Place& p : program_.members(op, data_rank)) ranks.push_back(program_.global_rank(p));
  return ranks;
}

void CpuDevice::step_op(const Op& op, Rank& rank, int32_t data_rank, const Ready& ready) {
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  switch (op.kind) {
    case OpKind::kGradReduce:
      reduce_gradients(op, s, data_rank, ready);
      return;
    case OpKind::kGradNorm:
      gradient_norm_op(op, rank, data_rank, ready);
      return;
    case OpKind::kOptimizer:
      optimizer(op, rank, data_rank);
      return;
    case OpKind::kParamGather: {
      const Arena arena = op.group == Group::kExpertReplicas ? Arena::kExpert : Arena::kDense;
      const std::vector<int64_t> members = ranks_of(op, data_rank);
      communicator_.all_gather({members, key_of(op)},
                               program_.global_rank({op.pp_rank, data_rank}),
                               s.weights.arena(arena),
                               ready);
      return;
    }
    case OpKind::kBiasUpdate:
      update_bias(op, s, data_rank, ready);
      return;
    default:
      CHECK(false) << "not an op that ends a step: " << to_string(op);
  }
}

void CpuDevice::reduce_gradients(const Op& op, Stage& s, int32_t data_rank, const Ready& ready) {
  const Arena arena = op.group == Group::kExpertReplicas ? Arena::kExpert : Arena::kDense;
  const std::vector<int64_t> members = ranks_of(op, data_rank);
  const int64_t me = program_.global_rank({op.pp_rank, data_rank});
  const Collective c{members, key_of(op)};
  if (plan_.layout.zero_stage == 0) {
    communicator_.all_reduce(c, me, s.gradients.arena(arena), ready);
  } else {
    communicator_.reduce_scatter(c, me, s.gradients.arena(arena), ready);
  }
}

Shard CpuDevice::owned(const Stage& s, Arena arena, const Op& op, int32_t data_rank) const {
  Op group = op;
  group.stage = static_cast<int32_t>(s.index);
  group.group = arena == Arena::kDense ? Group::kStageReplicas : Group::kExpertReplicas;
  const std::vector<int64_t> members = ranks_of(group, data_rank);
  const int64_t me = program_.global_rank({op.pp_rank, data_rank});
  const auto index = std::find(members.begin(), members.end(), me) - members.begin();
  return shard_of(s.where.arena_size(arena), index, static_cast<int64_t>(members.size()));
}

void CpuDevice::gradient_norm_op(const Op& op, Rank& rank, int32_t data_rank, const Ready& ready) {
  // Every parameter stands in exactly one rank's shard, so each is counted once. The op's time
  // begins here, with its own work, and so includes the wait for the slowest rank's.
  ready();
  double squares = 0;
  for (Stage& s : rank.copies) {
    for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
      const Shard shard = owned(s, arena, op, data_rank);
      squares += kernels::square_sum(shard.end - shard.begin,
                                     s.gradients.arena(arena).data() + shard.begin);
    }
  }
  const std::vector<int64_t> members = ranks_of(op, data_rank);
  const int64_t me = program_.global_rank({op.pp_rank, data_rank});
  rank.gradient_norm = std::sqrt(communicator_.sum({members, key_of(op)}, me, squares, [] {}));
  if (me == 0) gradient_norm_ = rank.gradient_norm;
}

void CpuDevice::optimizer(const Op& op, Rank& rank, int32_t data_rank) {
  const Training& t = plan_.training;
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  kernels::AdamWSettings settings{.learning_rate = settings_.learning_rate,
                                  .beta1 = t.beta1,
                                  .beta2 = t.beta2,
                                  .eps = t.adam_eps,
                                  .step = settings_.step + 1};
  if (t.gradient_clip > 0 && rank.gradient_norm > t.gradient_clip) {
    settings.gradient_scale = t.gradient_clip / rank.gradient_norm;
  }
  for (const Arena arena : {Arena::kDense, Arena::kExpert}) {
    const int64_t size = s.where.arena_size(arena);
    const Shard shard =
        plan_.layout.zero_stage == 0 ? Shard{0, size} : owned(s, arena, op, data_rank);
    auto& m = s.m[static_cast<size_t>(arena)];
    auto& v = s.v[static_cast<size_t>(arena)];
    m.resize(static_cast<size_t>(shard.end - shard.begin), 0.0f);
    v.resize(m.size(), 0.0f);
    for (const Parameter& p : s.where.list) {
      if (p.arena != arena) continue;
      const int64_t begin = std::max(p.offset, shard.begin);
      const int64_t end = std::min(p.offset + p.size(), shard.end);
      if (begin >= end) continue;
      settings.weight_decay = p.is_gain ? 0 : t.weight_decay;
      kernels::adamw(settings,
                     end - begin,
                     s.gradients.arena(arena).data() + begin,
                     s.weights.arena(arena).data() + begin,
                     m.data() + (begin - shard.begin),
                     v.data() + (begin - shard.begin));
    }
    std::fill(s.gradients.arena(arena).begin(), s.gradients.arena(arena).end(), 0.0f);
  }
}

void CpuDevice::update_bias(const Op& op, Stage& s, int32_t data_rank, const Ready& ready) {
  // b_i += gamma sign(mean load - load_i), over the whole batch (report, section 2.1.2).
  std::vector<int64_t> flat;
  for (const auto& load : s.expert_load) flat.insert(flat.end(), load.begin(), load.end());
  const std::vector<int64_t> members = ranks_of(op, data_rank);
  const std::vector<int64_t> total = communicator_.sum(
      {members, key_of(op)}, program_.global_rank({op.pp_rank, data_rank}), flat, ready);
  size_t at = 0;
  for (size_t layer = 0; layer < s.expert_load.size(); ++layer) {
    const size_t experts = s.expert_load[layer].size();
    if (experts == 0) continue;
    const auto load = std::span(total).subspan(at, experts);
    at += experts;
    int64_t sum = 0;
    for (const int64_t n : load) sum += n;
    for (size_t e = 0; e < experts; ++e) {
      const int64_t above = load[e] * static_cast<int64_t>(experts) - sum;
      const double sign = above > 0 ? -1 : above < 0 ? 1 : 0;
      s.expert_bias[layer][e] += static_cast<float>(plan_.training.bias_update_speed * sign);
    }
  }
}

double CpuDevice::mean_loss() const {
  const Layout& l = plan_.layout;
  double total = 0;
  for (int32_t d = 0; d < l.dp; ++d) {
    for (int64_t m = 0; m < plan_.training.micro_batches; ++m) {
      for (int32_t direction = 0; direction < l.copies(); ++direction) {
        const int64_t holder = l.pp_rank_of(l.pp - 1, direction);
        total += stage(holder, d, direction).chunks[static_cast<size_t>(m)].loss;
      }
    }
  }
  return total / static_cast<double>(plan_.step_tokens());
}

std::vector<int64_t> CpuDevice::expert_load(int64_t layer) const {
  const Layout& l = plan_.layout;
  int64_t owner = 0;
  while (layer >= l.first_layer(owner + 1)) ++owner;
  std::vector<int64_t> total(static_cast<size_t>(plan_.model.architecture.experts), 0);
  for (int32_t direction = 0; direction < l.copies(); ++direction) {
    for (int32_t d = 0; d < l.dp; ++d) {
      const Stage& s = stage(l.pp_rank_of(owner, direction), d, direction);
      const auto& load = s.expert_load[static_cast<size_t>(layer - s.first_layer)];
      for (size_t e = 0; e < load.size(); ++e) total[e] += load[e];
    }
  }
  return total;
}

std::span<const int32_t> CpuDevice::recorded_choices(int64_t layer,
                                                     int32_t data_rank,
                                                     int64_t micro_batch) const {
  const Layout& l = plan_.layout;
  int64_t owner = 0;
  while (owner + 1 < l.stages() && l.first_layer(owner + 1) <= layer) ++owner;
  // Of the copies of a stage one had this micro-batch.
  for (int32_t direction = 0; direction < l.copies(); ++direction) {
    const Stage& s = stage(l.pp_rank_of(owner, direction), data_rank, direction);
    const auto& choices =
        s.choices[static_cast<size_t>(layer - s.first_layer)][static_cast<size_t>(micro_batch)];
    if (!choices.empty()) return choices;
  }
  return {};
}

int64_t CpuDevice::peak_micro_batches(int64_t rank) const {
  return ranks_[static_cast<size_t>(rank)]->peak_micro_batches;
}

Bytes CpuDevice::peak_activation_memory(int64_t rank) const {
  return ranks_[static_cast<size_t>(rank)]->pool.peak();
}

}  // namespace rehearse
