#include "runtime/devices/cpu/cpu_device.h"

#include <algorithm>

#include "plan/program/op_work.h"
#include "runtime/communicators/keys.h"
#include "runtime/devices/cpu/step_end.h"
#include "runtime/layers/yarn.h"
#include "runtime/precise_sleep.h"

namespace rehearse {

CpuDevice::CpuDevice(const Plan& plan,
                     const Program& program,
                     const TextData& data,
                     Communicator& communicator)
    : plan_(plan),
      program_(program),
      data_(data),
      communicator_(communicator),
      recipe_(recipe_of(plan.training)),
      op_work_(plan),
      rope_(
          plan.training.sequence_length, rope_frequencies(plan.model), rope_amplitude(plan.model)) {
  const Layout& l = plan.layout;
  const std::vector<Placement> placements = placements_of(plan);
  ranks_.resize(static_cast<size_t>(l.world()));
  for (const int64_t global : communicator.local_ranks()) {
    const Place p = l.place_of(global);
    auto rank = std::make_unique<CpuRank>(rope_);
    for (int64_t slot = 0; slot < l.slots(); ++slot) {
      rank->copies.emplace_back(
          plan, recipe_, l.stage_of(p.pp_rank, slot), l.expert_index_of(p.data_rank), placements);
      start_weights(plan, recipe_, program, p, rank->copies.back());
    }
    if (l.ep > 1) rank->experts.emplace(plan, p.pp_rank, p.data_rank);
    ranks_[static_cast<size_t>(global)] = std::move(rank);
  }
}

void CpuDevice::abort() {
  aborted_ = true;
  aborted_.notify_all();
  communicator_.abort();
}

void CpuDevice::begin_step(const StepSettings& settings) {
  settings_ = settings;
  for (std::atomic<int64_t>* n :
       {&overruns_.ops, &overruns_.of, &overruns_.time, &overruns_.held}) {
    *n = 0;
  }
  for (const auto& rank : ranks_) {
    if (rank == nullptr) continue;
    rank->held_micro_batches = rank->peak_micro_batches = 0;
    for (Stage& s : rank->copies) {
      for (auto& load : s.expert_load) std::fill(load.begin(), load.end(), 0);
      std::fill(s.bad_outputs.begin(), s.bad_outputs.end(), 0);
      std::fill(s.bad_gradients.begin(), s.bad_gradients.end(), 0);
      for (ChunkActivations& c : s.chunks) {
        c.loss = 0;
        std::fill(c.mtp_losses.begin(), c.mtp_losses.end(), 0);
      }
    }
  }
}

CpuRank& CpuDevice::rank_at(int64_t global_rank) const {
  const auto& rank = ranks_[static_cast<size_t>(global_rank)];
  CHECK(rank != nullptr) << "rank " << global_rank << " is on another process";
  return *rank;
}

Stage& CpuDevice::stage(int64_t pp_rank, int32_t data_rank, int32_t slot) {
  return rank_at(program_.global_rank({static_cast<int32_t>(pp_rank), data_rank}))
      .copies[static_cast<size_t>(slot)];
}

LayerContext CpuDevice::context(CpuRank& rank) const {
  const Training& t = plan_.training;
  const bool by_sequence = t.balance_over == BalanceOver::kSequence;
  const double parts = static_cast<double>(
      settings_.micro_batches * (by_sequence ? t.micro_batch_size : 1) * plan_.layout.dp);
  return {.model = plan_.model.architecture,
          .compute = rank.compute,
          .recipe = recipe_,
          .sequences = t.micro_batch_size,
          .length = t.sequence_length,
          .routing = plan_.routing,
          .balance_coefficient = t.balance_loss / parts,
          .balance_length = (by_sequence ? 1 : t.micro_batch_size) * t.sequence_length,
          .softmax_factor = softmax_factor(plan_.model),
          .again = plan_.training.recompute};
}

Batch CpuDevice::batch(const Op& op, int32_t data_rank) const {
  const Training& t = plan_.training;
  const int64_t first =
      (data_rank * settings_.micro_batches + *op.micro_batch) * t.micro_batch_size;
  return settings_.validation ? data_.validation(settings_.first_window + first, t.micro_batch_size)
                              : data_.training(settings_.step, first, t.micro_batch_size);
}

// The slot on the same rank of the stage that `next` is from the one in `slot`, where the rank
// holds both: what leaves the one enters the other without a message.
std::optional<int64_t> CpuDevice::handed_on(const Op& op, int64_t slot, int64_t next) const {
  const Layout& l = plan_.layout;
  const int64_t stage = l.stage_of(op.pp_rank, slot) + next;
  if (stage < 0 || stage >= l.stages()) return std::nullopt;
  const int64_t there = l.slot_of(stage, slot);
  if (l.pp_rank_of(stage, there) != op.pp_rank) return std::nullopt;
  return there;
}

// Where goes what enters a stage, and what leaves it: stages without layers hand it on.
Tensor& CpuDevice::entry(const Op& op, CpuRank& rank, int64_t slot) {
  const bool empty = rank.copies[static_cast<size_t>(slot)].main_layers == 0;
  return empty ? exit(op, rank, slot) : chunk_of(op, rank, slot).layers.front().x;
}
Tensor& CpuDevice::exit(const Op& op, CpuRank& rank, int64_t slot) {
  if (const auto next = handed_on(op, slot, 1)) return entry(op, rank, *next);
  return chunk_of(op, rank, slot).output;
}
// The same of gradients, from behind.
Tensor& CpuDevice::d_entry(const Op& op, CpuRank& rank, int64_t slot) {
  const size_t layers = rank.copies[static_cast<size_t>(slot)].main_layers;
  return layers == 0 ? d_exit(op, rank, slot) : chunk_of(op, rank, slot).layers[layers - 1].d_out;
}
Tensor& CpuDevice::d_exit(const Op& op, CpuRank& rank, int64_t slot) {
  if (const auto next = handed_on(op, slot, -1)) return d_entry(op, rank, *next);
  return chunk_of(op, rank, slot).d_input;
}

ChunkActivations& CpuDevice::chunk_of(const Op& op, CpuRank& rank, int64_t slot) {
  return rank.copies[static_cast<size_t>(slot)].chunks[static_cast<size_t>(*op.micro_batch)];
}

// Where the output of a layer goes.
Tensor& CpuDevice::slot_after(const Op& op, CpuRank& rank, size_t local_layer) {
  ChunkActivations& chunk = chunk_of(op, rank, op.direction);
  const size_t layers = rank.copies[static_cast<size_t>(op.direction)].main_layers;
  if (local_layer >= layers) return chunk.mtp[local_layer - layers].output;
  return local_layer + 1 < layers ? chunk.layers[local_layer + 1].x : exit(op, rank, op.direction);
}

// Of an op of the model's end: 0 is the model's own head, then MTP modules.
size_t CpuDevice::module_of(const Op& op) const {
  if (!op.layer) return op.kind == OpKind::kMtp ? 1 : 0;
  return static_cast<size_t>(*op.layer - plan_.layout.mtp_layer() + 1);
}

Batch CpuDevice::batch_of(const Op& op, int32_t data_rank, size_t module) const {
  const Batch own = batch(op, data_rank);
  return module == 0 ? own
                     : ahead(own, plan_.training.sequence_length, static_cast<int64_t>(module));
}

// The embedding's table stands in the stage itself, or on the same rank in the first one.
MtpWeights CpuDevice::mtp_weights(CpuRank& rank, Stage& s, size_t module) const {
  Stage* table = &s;
  for (Stage& other : rank.copies) {
    if (!s.where.embedding && other.index == 0) table = &other;
  }
  return {.ids = s.where.mtp[module - 1],
          .embedding = *table->where.embedding,
          .weights = s.weights,
          .gradients = s.gradients,
          .table = table->weights,
          .table_gradients = table->gradients};
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
  const bool held = plan_.cluster.emulated() && local;
  if (held) hold(op, data_rank, begin);
}

// Sleeps until the op has taken its time on the emulated device.
void CpuDevice::hold(const Op& op, int32_t data_rank, std::chrono::steady_clock::time_point begin) {
  MemberLoad load;
  if (op.layer && plan_.model.architecture.is_moe(*op.layer)) {
    const Stage& s = stage(op.pp_rank, data_rank, op.direction);
    load.expert_rows = s.chunks[static_cast<size_t>(*op.micro_batch)]
                           .layers[s.local_layer(*op.layer)]
                           .rows.expert_rows;
  }
  const Duration target = roofline(plan_, op_work_.calls(op, load).all());
  const auto end = begin + std::chrono::nanoseconds(target.picoseconds() / 1000);
  ++overruns_.of;
  overruns_.held += target.picoseconds();
  const auto late = std::chrono::steady_clock::now() - end;
  if (late > late.zero()) {
    ++overruns_.ops;
    overruns_.time += std::chrono::nanoseconds(late).count() * 1000;
    return;
  }
  sleep_until_exactly(end);
}

void CpuDevice::work(const Op& op, int32_t data_rank, const Ready& ready) {
  CpuRank& rank = rank_at(program_.global_rank({op.pp_rank, data_rank}));
  if (ends_step(op.kind)) {
    end_step({.plan = plan_,
              .program = program_,
              .communicator = communicator_,
              .settings = settings_,
              .rank = rank,
              .data_rank = data_rank},
             op,
             ready);
    return;
  }
  switch (op.kind) {
    case OpKind::kSend:
    case OpKind::kRecv:
      message_op(op, rank, data_rank, ready);
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

void CpuDevice::forward_op(const Op& op, CpuRank& rank, int32_t data_rank) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  if (op.kind == OpKind::kEmbed) {
    const Batch b = batch(op, data_rank);
    entry(op, rank, op.direction) = embedded(c, b.inputs, s.weights.array(*s.where.embedding));
    return;
  }
  if (op.kind == OpKind::kHead) {
    const size_t module = module_of(op);
    HeadActivations& head = chunk.heads[module];
    head.x = std::move(module == 0 ? chunk.output : chunk.mtp[module - 1].output);
    const double loss =
        head_forward(c, s.head_weights(module), batch_of(op, data_rank, module).targets, head);
    (module == 0 ? chunk.loss : chunk.mtp_losses[module - 1]) = loss;
    if (settings_.probe && module == 0) {
      chunk.kept_logits.assign(head.logits.data(), head.logits.data() + head.logits.size());
    }
    // The next module needs what this one's layers made.
    if (settings_.validation && module > 0) chunk.heads[module - 1] = {};
    if (settings_.validation && module == s.where.mtp.size()) head = {};
    return;
  }
  if (op.kind == OpKind::kMtp) {
    const size_t module = module_of(op);
    MtpActivations& m = chunk.mtp[module - 1];
    m.tokens = batch_of(op, data_rank, module).inputs;
    chunk.layers[s.main_layers + module - 1].x =
        mtp_forward(c, mtp_weights(rank, s, module), chunk.heads[module - 1].x, m);
    if (settings_.validation) m = {};
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
      c.compute.count(a.chosen, s.expert_load[local]);
      if (record_choices_ && !settings_.validation && w.ids.gate) {
        const auto m = static_cast<size_t>(*op.micro_batch);
        s.choices[local][m] = a.chosen;
        s.gate_weights[local][m].assign(a.weights.data(), a.weights.data() + a.weights.size());
      }
      return;
    case OpKind::kMlp:
      if (w.ids.gate) {
        experts_forward(c, w, a);
      } else {
        Tensor& out = slot_after(op, rank, local);
        out = dense_forward(c, w, a);
        if (!c.compute.all_finite(out)) ++s.bad_outputs[local];
        if (settings_.validation) a = {};
      }
      return;
    default:
      CHECK(false) << "no forward of " << to_string(op);
  }
}

void CpuDevice::all_to_all_op(const Op& op, CpuRank& rank, const Ready& ready) {
  LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  const size_t local = s.local_layer(*op.layer);
  LayerActivations& a = chunk.layers[local];
  // Balanced choices are of whatever experts stand there.
  if (plan_.routing == Routing::kLearned) c.slot_of = s.slot_of[local];
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
    Tensor& out = slot_after(op, rank, local);
    out = combine_forward(c, call, a);
    if (!c.compute.all_finite(out)) ++s.bad_outputs[local];
    if (settings_.validation) a = {};
  } else {
    combine_input(c, call, a);
  }
}

void CpuDevice::input_op(const Op& op, CpuRank& rank, int32_t data_rank) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  if (op.kind == OpKind::kHead) {
    const size_t module = module_of(op);
    double scale = 1.0 / static_cast<double>(plan_.step_tokens() / plan_.training.micro_batches *
                                             settings_.micro_batches);
    // Equation 25: lambda times the mean over modules.
    if (module > 0) scale *= plan_.training.mtp_loss / static_cast<double>(s.where.mtp.size());
    // What the next module makes of this one's input comes to its gradient.
    const bool more = module < s.where.mtp.size();
    const Tensor* const addend = more ? &chunk.mtp[module].d_hidden : nullptr;
    Tensor& to = module == 0 ? d_entry(op, rank, op.direction)
                             : chunk.layers[s.main_layers + module - 1].d_out;
    to = head_input(c,
                    s.head_weights(module),
                    batch_of(op, data_rank, module).targets,
                    scale,
                    addend,
                    chunk.heads[module]);
    if (more) chunk.mtp[module].d_hidden.release();
    return;
  }
  if (op.kind == OpKind::kMtp) {
    const size_t module = module_of(op);
    mtp_input(c, mtp_weights(rank, s, module), chunk.heads[module - 1].x, chunk.mtp[module - 1]);
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
      if (!c.compute.all_finite(dx)) ++s.bad_gradients[local];
      Tensor& to = local >= s.main_layers ? chunk.mtp[local - s.main_layers].d_x
                   : local == 0           ? d_exit(op, rank, op.direction)
                                          : chunk.layers[local - 1].d_out;
      to = std::move(dx);
      return;
    }
    default:
      CHECK(false) << "no backward of " << to_string(op);
  }
}

void CpuDevice::weight_op(const Op& op, CpuRank& rank, int32_t data_rank) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  if (op.kind == OpKind::kHead) {
    const size_t module = module_of(op);
    head_weight(c, s.head_weights(module), chunk.heads[module]);
    chunk.heads[module] = {};
    return;
  }
  if (op.kind == OpKind::kMtp) {
    const size_t module = module_of(op);
    mtp_weight(c, mtp_weights(rank, s, module), chunk.mtp[module - 1]);
    return;
  }
  if (op.kind == OpKind::kEmbed) {
    embedding_weight(
        c, batch(op, data_rank).inputs, chunk.d_input, s.gradients.array(*s.where.embedding));
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

void CpuDevice::message_op(const Op& op, CpuRank& rank, int32_t data_rank, const Ready& ready) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  const int64_t here = program_.global_rank({op.pp_rank, data_rank});
  const int64_t there = program_.global_rank({*op.peer, data_rank});
  const bool forward = op.pass == Pass::kForward;
  if (op.kind == OpKind::kSend) {
    Tensor& out = forward ? chunk.output : chunk.d_input;
    communicator_.send(here, there, tag_of(op), out);
    out.release();
  } else {
    Tensor& in = forward ? entry(op, rank, op.direction) : d_entry(op, rank, op.direction);
    in = c.compute.make(c.tokens(), c.model.hidden, recipe_.sent);
    communicator_.recv(there, here, tag_of(op), in, ready);
  }
}

StepResults CpuDevice::results() const {
  StepResults results(plan_, settings_.micro_batches);
  const Layout& l = plan_.layout;
  const int64_t experts = plan_.model.architecture.experts;
  std::optional<double> norm;
  for (const int64_t global : communicator_.local_ranks()) {
    const CpuRank& rank = rank_at(global);
    results.peak_memory[static_cast<size_t>(global)] = rank.pool.peak();
    if (!norm) norm = rank.gradient_norm;
    const int64_t first = l.place_of(global).data_rank * settings_.micro_batches;
    for (const Stage& s : rank.copies) {
      for (size_t layer = 0; layer < s.bad_outputs.size(); ++layer) {
        const size_t global_layer = static_cast<size_t>(s.first_layer) + layer;
        results.bad_outputs[global_layer] += s.bad_outputs[layer];
        results.bad_gradients[global_layer] += s.bad_gradients[layer];
      }
      for (size_t layer = 0; layer < s.expert_load.size(); ++layer) {
        const int64_t row = (s.first_layer + static_cast<int64_t>(layer)) * experts;
        for (size_t e = 0; e < s.expert_load[layer].size(); ++e) {
          results.expert_load[static_cast<size_t>(row) + e] += s.expert_load[layer][e];
        }
      }
      // Of the copies of the last stage one had the micro-batch; the others' loss is 0.
      if (!l.is_last(s.index)) continue;
      for (size_t m = 0; m < static_cast<size_t>(settings_.micro_batches); ++m) {
        results.losses[static_cast<size_t>(first) + m] += s.chunks[m].loss;
        for (size_t module = 0; module < s.where.mtp.size(); ++module) {
          results.mtp_losses[module * results.losses.size() + static_cast<size_t>(first) + m] +=
              s.chunks[m].mtp_losses[module];
        }
      }
    }
  }
  results.gradient_norm = norm.value_or(0);
  results.overruns = {.ops = overruns_.ops,
                      .of = overruns_.of,
                      .time = Duration::picoseconds(overruns_.time),
                      .held = Duration::picoseconds(overruns_.held)};
  return results;
}

TrainingDevice::Recorded CpuDevice::recorded_choices(int64_t layer,
                                                     int32_t data_rank,
                                                     int64_t micro_batch) const {
  const Layout& l = plan_.layout;
  const int64_t index = l.stage_of_layer(layer);
  for (const int64_t global : communicator_.local_ranks()) {
    if (l.place_of(global).data_rank != data_rank) continue;
    for (const Stage& s : rank_at(global).copies) {
      if (s.index != index) continue;
      const auto local = static_cast<size_t>(layer - s.first_layer);
      const auto& choices = s.choices[local][static_cast<size_t>(micro_batch)];
      if (choices.empty()) continue;
      return {choices, s.gate_weights[local][static_cast<size_t>(micro_batch)]};
    }
  }
  return {};
}

int64_t CpuDevice::peak_micro_batches(int64_t rank) const {
  return rank_at(rank).peak_micro_batches;
}

}  // namespace rehearse
