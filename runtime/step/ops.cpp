// What each op of a rank does: LocalRanks' work, from layers and messages.

#include <algorithm>

#include "runtime/communicators/keys.h"
#include "runtime/compute/yarn.h"
#include "runtime/step/local_ranks.h"
#include "runtime/step/step_end.h"

namespace rehearse {

namespace {

// A layer's count.
Array one_of(FlatValues& counts, size_t local) {
  return counts.array(static_cast<int64_t>(local), 1, 1);
}

}  // namespace

LayerContext LocalRanks::context(RankState& rank) const {
  const Training& t = plan_.training;
  const bool by_sequence = t.balance_over == BalanceOver::kSequence;
  const double parts = static_cast<double>(
      settings_.micro_batches * (by_sequence ? t.micro_batch_size : 1) * plan_.layout.dp);
  return {.model = plan_.model.architecture,
          .compute = rank.compute,
          .lanes = device_.lanes(),
          .recipe = recipe_,
          .sequences = t.micro_batch_size,
          .length = t.sequence_length,
          .routing = plan_.routing,
          .balance_coefficient = t.balance_loss / parts,
          .balance_length = (by_sequence ? 1 : t.micro_batch_size) * t.sequence_length,
          .softmax_factor = softmax_factor(plan_.model),
          .again = plan_.training.recompute,
          .overflowed = rank.overflowed.array()};
}

Batch LocalRanks::batch(const Op& op, int32_t data_rank) const {
  const Training& t = plan_.training;
  const int64_t first =
      (data_rank * settings_.micro_batches + *op.micro_batch) * t.micro_batch_size;
  return settings_.validation ? data_.validation(settings_.first_window + first, t.micro_batch_size)
                              : data_.training(settings_.step, first, t.micro_batch_size);
}

// The slot on the same rank of the stage that `next` is from the one in `slot`, where the rank
// holds both: what leaves the one enters the other without a message.
std::optional<int64_t> LocalRanks::handed_on(const Op& op, int64_t slot, int64_t next) const {
  const Layout& l = plan_.layout;
  const int64_t stage = l.stage_of(op.pp_rank, slot) + next;
  if (stage < 0 || stage >= l.stages()) return std::nullopt;
  const int64_t there = l.slot_of(stage, slot);
  if (l.pp_rank_of(stage, there) != op.pp_rank) return std::nullopt;
  return there;
}

// Where goes what enters a stage, and what leaves it: stages without layers hand it on.
Tensor& LocalRanks::entry(const Op& op, RankState& rank, int64_t slot) {
  const bool empty = rank.copies[static_cast<size_t>(slot)].main_layers == 0;
  return empty ? exit(op, rank, slot) : chunk_of(op, rank, slot).layers.front().x;
}
Tensor& LocalRanks::exit(const Op& op, RankState& rank, int64_t slot) {
  if (const auto next = handed_on(op, slot, 1)) return entry(op, rank, *next);
  return chunk_of(op, rank, slot).output;
}
// The same of gradients, from behind.
Tensor& LocalRanks::d_entry(const Op& op, RankState& rank, int64_t slot) {
  const size_t layers = rank.copies[static_cast<size_t>(slot)].main_layers;
  return layers == 0 ? d_exit(op, rank, slot) : chunk_of(op, rank, slot).layers[layers - 1].d_out;
}
Tensor& LocalRanks::d_exit(const Op& op, RankState& rank, int64_t slot) {
  if (const auto next = handed_on(op, slot, -1)) return d_entry(op, rank, *next);
  return chunk_of(op, rank, slot).d_input;
}

ChunkActivations& LocalRanks::chunk_of(const Op& op, RankState& rank, int64_t slot) {
  return rank.copies[static_cast<size_t>(slot)].chunks[static_cast<size_t>(*op.micro_batch)];
}

// Where the output of a layer goes.
Tensor& LocalRanks::slot_after(const Op& op, RankState& rank, size_t local_layer) {
  ChunkActivations& chunk = chunk_of(op, rank, op.direction);
  const size_t layers = rank.copies[static_cast<size_t>(op.direction)].main_layers;
  if (local_layer >= layers) return chunk.mtp[local_layer - layers].output;
  return local_layer + 1 < layers ? chunk.layers[local_layer + 1].x : exit(op, rank, op.direction);
}

// Of an op of the model's end: 0 is the model's own head, then MTP modules.
size_t LocalRanks::module_of(const Op& op) const {
  if (!op.layer) return op.kind == OpKind::kMtp ? 1 : 0;
  return static_cast<size_t>(*op.layer - plan_.layout.mtp_layer() + 1);
}

Batch LocalRanks::batch_of(const Op& op, int32_t data_rank, size_t module) const {
  const Batch own = batch(op, data_rank);
  return module == 0 ? own
                     : ahead(own, plan_.training.sequence_length, static_cast<int64_t>(module));
}

Tensor LocalRanks::inputs_of(const LayerContext& c,
                             const Op& op,
                             int32_t data_rank,
                             size_t module) const {
  return c.compute.from_host(batch_of(op, data_rank, module).inputs);
}
Tensor LocalRanks::targets_of(const LayerContext& c,
                              const Op& op,
                              int32_t data_rank,
                              size_t module) const {
  return c.compute.from_host(batch_of(op, data_rank, module).targets);
}

// The embedding's table stands in the stage itself, or on the same rank in the first one.
MtpWeights LocalRanks::mtp_weights(RankState& rank, Stage& s, size_t module) const {
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

void LocalRanks::work(const Op& op, int32_t data_rank, const Ready& ready) {
  RankState& rank = rank_at(program_.global_rank({op.pp_rank, data_rank}));
  if (ends_step(op.kind)) {
    rehearse::end_step({.plan = plan_,
                        .program = program_,
                        .lanes = device_.lanes(),
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

void LocalRanks::forward_op(const Op& op, RankState& rank, int32_t data_rank) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  if (op.kind == OpKind::kEmbed) {
    entry(op, rank, op.direction) =
        embedded(c, inputs_of(c, op, data_rank, 0), s.weights.array(*s.where.embedding));
    return;
  }
  if (op.kind == OpKind::kHead) {
    const size_t module = module_of(op);
    HeadActivations& head = chunk.heads[module];
    head.x = std::move(module == 0 ? chunk.output : chunk.mtp[module - 1].output);
    head_forward(c,
                 s.head_weights(module),
                 targets_of(c, op, data_rank, module),
                 s.loss(module, static_cast<size_t>(*op.micro_batch)),
                 head);
    if (settings_.probe && module == 0) {
      chunk.kept_logits.resize(static_cast<size_t>(head.logits.size()));
      c.compute.to_host(head.logits, chunk.kept_logits.data());
    }
    // The next module needs what this one's layers made.
    if (settings_.validation && module > 0) chunk.heads[module - 1] = {};
    if (settings_.validation && module == s.where.mtp.size()) head = {};
    return;
  }
  if (op.kind == OpKind::kMtp) {
    const size_t module = module_of(op);
    MtpActivations& m = chunk.mtp[module - 1];
    m.tokens = inputs_of(c, op, data_rank, module);
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
      attention_op(op, rank);
      return;
    case OpKind::kMlp:
      if (w.ids.gate) {
        experts_forward(c, w, a);
      } else {
        Tensor& out = slot_after(op, rank, local);
        out = dense_forward(c, w, a);
        c.compute.count_bad(out, one_of(s.bad_outputs, local));
        if (settings_.validation) a = {};
      }
      return;
    default:
      CHECK(false) << "no forward of " << to_string(op);
  }
}

void LocalRanks::attention_op(const Op& op, RankState& rank) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  const auto micro_batch = static_cast<size_t>(*op.micro_batch);
  const size_t local = s.local_layer(*op.layer);
  LayerActivations& a = s.chunks[micro_batch].layers[local];
  const LayerWeights w = s.layer_weights(local);
  if (local == 0) {
    ++rank.held_micro_batches;
    rank.peak_micro_batches = std::max(rank.peak_micro_batches, rank.held_micro_batches);
  }
  attention_forward(c, w, a);
  if (!w.ids.gate) return;
  c.compute.count(a.chosen, s.load_of(s.expert_load, local));
  if (!record_choices_ || settings_.validation) return;
  std::vector<int32_t>& choices = s.choices[local][micro_batch];
  choices.resize(static_cast<size_t>(a.chosen.size()));
  c.compute.to_host(a.chosen, choices.data());
  std::vector<float>& weights = s.gate_weights[local][micro_batch];
  weights.resize(static_cast<size_t>(a.weights.size()));
  c.compute.to_host(a.weights, weights.data());
}

void LocalRanks::all_to_all_op(const Op& op, RankState& rank, const Ready& ready) {
  LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  const size_t local = s.local_layer(*op.layer);
  LayerActivations& a = chunk.layers[local];
  // Balanced choices are of whatever experts stand there.
  if (plan_.routing == Routing::kLearned) c.slot_of = s.slot_of[local].array();
  std::optional<ExchangeOp> exchange;
  if (rank.experts) {
    exchange.emplace(ExchangeOp{.group = *rank.experts,
                                .pool = rank.pool,
                                .key = key_of(op),
                                .ready = ready,
                                .overflowed = c.overflowed});
  }
  const ExchangeOp* call = exchange ? &*exchange : nullptr;
  const bool forward = op.pass == Pass::kForward;
  if (op.kind == OpKind::kDispatch) {
    forward ? dispatch_forward(c, call, a) : dispatch_input(c, call, a);
  } else if (forward) {
    Tensor& out = slot_after(op, rank, local);
    out = combine_forward(c, call, a);
    c.compute.count_bad(out, one_of(s.bad_outputs, local));
    if (settings_.validation) a = {};
  } else {
    combine_input(c, call, a);
  }
}

void LocalRanks::input_op(const Op& op, RankState& rank, int32_t data_rank) {
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
                    targets_of(c, op, data_rank, module),
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
      c.compute.count_bad(dx, one_of(s.bad_gradients, local));
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

void LocalRanks::weight_op(const Op& op, RankState& rank, int32_t data_rank) {
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
        c, inputs_of(c, op, data_rank, 0), chunk.d_input, s.gradients.array(*s.where.embedding));
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

void LocalRanks::message_op(const Op& op, RankState& rank, int32_t data_rank, const Ready& ready) {
  const LayerContext c = context(rank);
  Stage& s = rank.copies[static_cast<size_t>(op.direction)];
  ChunkActivations& chunk = s.chunks[static_cast<size_t>(*op.micro_batch)];
  const int64_t here = program_.global_rank({op.pp_rank, data_rank});
  const int64_t there = program_.global_rank({*op.peer, data_rank});
  const bool forward = op.pass == Pass::kForward;
  if (op.kind == OpKind::kSend) {
    Tensor& out = forward ? chunk.output : chunk.d_input;
    device_.lanes().send(here, there, tag_of(op), out);
    out.release();
  } else {
    Tensor& in = forward ? entry(op, rank, op.direction) : d_entry(op, rank, op.direction);
    in = c.compute.make(c.tokens(), c.model.hidden, recipe_.sent);
    device_.lanes().recv(there, here, tag_of(op), in, ready);
  }
}

}  // namespace rehearse
