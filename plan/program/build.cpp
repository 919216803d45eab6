// Program::build: templates of cells laid along each rank's schedule.
//
// Order inside a cell (report, section 3.2.1 and the published DualPipe profile), per layer:
//   F    attn.F  dispatch.F  mlp.F  combine.F
//   B    combine.B  mlp.B  mlp.W  dispatch.B  attn.B  attn.W     (Bi: without the W ops)
//   F&B  compute lane   attn.F mlp.B mlp.W mlp.F attn.B attn.W
//        a2a lane       combine.B dispatch.F dispatch.B combine.F
// so that each all-to-all runs beside computation of the other micro-batch. Pairs of unequal chunks
// are zipped layer by layer in order of execution; what is left over runs unpaired.
//
// Where ranks share an op's matrices (TP, ETP) or its sequence (CP), collectives of their own lanes
// stand around it (Shoeybi et al. 2019; Korthikanti et al. 2022, figure 5):
//   F    gather  OP.F  scatter            (scatter: partial results summed, a part to each rank)
//   B    scatter.B  OP.B  gather.B        (scatter.B gathers gradients, gather.B sums them)
//        gather.W  OP.W                   (what OP.W reads of the others' inputs, once more)
// Without sequence parallelism all ranks have all inputs: F has a scatter alone and B a gather.B
// alone, both of which sum and give all to all. CP ranks gather keys and values before attn, once
// it could begin, or pass them round beside it (ring), behind qkv.

#include <algorithm>
#include <map>
#include <tuple>

#include <fmt/format.h>

#include "base/errors.h"
#include "plan/program/program.h"

namespace rehearse {
namespace {

[[noreturn]] void too_many_ops(const Program::Spec& spec) {
  throw InputError(fmt::format(
      "{} micro-batches are more than {} million ops in one replica of the pipeline, the most that "
      "are held (about 4 GB); use fewer and larger micro-batches",
      spec.micro_batches,
      kMostOps / 1'000'000));
}

// A step of a chunk's pass: ops of the compute lane that come first, then a layer (none at the
// end).
struct Step {
  struct Before {
    OpKind kind;
    Pass pass;
    std::optional<int32_t> layer;
  };
  std::vector<Before> before;
  std::optional<int32_t> layer;
};

class Builder {
 public:
  explicit Builder(const Program::Spec& spec) : spec_(spec) {}

  Program build() {
    const Layout& layout = spec_.layout;
    for (int32_t r = 0; r < layout.pp; ++r) {
      schedules_.push_back(schedule_of(r));
      rank_ = r;
      for (size_t i = 0; i < schedules_.back().size(); ++i) {
        const Cell& cell = schedules_.back()[i];
        if (!cell.has_backward() || cell.kind == CellKind::kBackwardInput) continue;
        last_backward_[cell.backward.direction] = static_cast<int32_t>(i);
      }
      for (const Cell& cell : schedules_.back()) {
        emit_cell(cell);
        if (static_cast<int64_t>(ops_.size()) > kMostOps) too_many_ops(spec_);
      }
      if (spec_.mode == Mode::kTrain) end_step();
      input_ops_.clear();
      head_forward_.clear();
      handed_on_.clear();
      last_of_direction_.clear();
      gathered_.clear();
      weights_.clear();
      last_backward_.clear();
      last_reduced_.clear();
      last_compute_.reset();
      unfinished_sends_.clear();
      cell_ = 0;
    }
    for (const auto& [recv, key] : receives_) {
      const auto send = sends_.find(key);
      CHECK(send != sends_.end()) << "no send for op " << recv;
      dependencies_[static_cast<size_t>(recv)].push_back(send->second);
    }
    return Program::assemble(spec_, schedules_, std::move(ops_), dependencies_);
  }

 private:
  // What identifies one pipeline message within a replica: pass, micro-batch, receiving stage and
  // rank.
  using MessageKey = std::tuple<Pass, int32_t, int32_t, int32_t>;

  // The ids of one chunk's pass: where it stands and what its next op depends on.
  struct Chain {
    MicroBatch micro_batch;
    int32_t stage = 0;
    std::vector<int32_t> after;   // dependencies of the next op
    bool weights = true;          // backward: W ops stand in this cell
    std::vector<int32_t> shared;  // of what shared experts do beside the all-to-alls
  };

  RankSchedule schedule_of(int32_t rank) const {
    switch (spec_.mode) {
      case Mode::kTrain:
        break;
      case Mode::kForward:
        return forward_only(spec_.layout, spec_.micro_batches);
      case Mode::kPair:
        return {{.kind = CellKind::kOverlapped,
                 .forward = {.direction = 0, .index = 0},
                 .backward = {.direction = 0, .index = 1}}};
    }
    return build_schedule(spec_.layout, spec_.micro_batches, rank);
  }

  int32_t last_stage() const { return static_cast<int32_t>(spec_.layout.stages()) - 1; }
  int32_t stage_of(const MicroBatch& m) const {
    return static_cast<int32_t>(spec_.layout.stage_of(rank_, m.direction));
  }
  bool is_moe(int32_t layer) const { return !spec_.dense.contains(layer); }
  // Of MTP modules, counted from 1.
  int32_t mtp_layer(int64_t module) const {
    return static_cast<int32_t>(spec_.layout.mtp_layer() + module - 1);
  }
  bool is_empty(int32_t stage) const {
    return spec_.layout.layers_per_stage[static_cast<size_t>(stage)] == 0;
  }

  int32_t emit(Op op, std::vector<int32_t> after) {
    op.id = static_cast<int32_t>(ops_.size());
    op.pp_rank = rank_;
    op.cell = cell_;
    if (op.lane == Lane::kCompute) {
      last_of_direction_[op.direction] = op.id;
      last_compute_ = op.id;
      // Messages that nothing may overlap.
      after.insert(after.end(), unfinished_sends_.begin(), unfinished_sends_.end());
      unfinished_sends_.clear();
    }
    ops_.push_back(op);
    dependencies_.push_back(std::move(after));
    return op.id;
  }

  int32_t emit(const Chain& c,
               Lane lane,
               OpKind kind,
               Pass pass,
               std::optional<int32_t> layer,
               std::vector<int32_t> after) {
    return emit({.lane = lane,
                 .kind = kind,
                 .pass = pass,
                 .stage = c.stage,
                 .direction = c.micro_batch.direction,
                 .layer = layer,
                 .micro_batch = c.micro_batch.index},
                std::move(after));
  }

  // An all-to-all is a collective of the EP group, and local work when that is one rank.
  int32_t emit_all_to_all(
      const Chain& c, OpKind kind, Pass pass, int32_t layer, std::vector<int32_t> after) {
    Op op{.lane = Lane::kAllToAll,
          .kind = kind,
          .pass = pass,
          .group = spec_.layout.ep > 1 ? Group::kExpertParallel : Group::kNone,
          .stage = c.stage,
          .direction = c.micro_batch.direction,
          .layer = layer,
          .micro_batch = c.micro_batch.index};
    return emit(op, std::move(after));
  }

  // A collective of ranks that share the work of an op.
  int32_t share(const Chain& c,
                OpKind kind,
                OpKind of,
                Pass pass,
                std::optional<int32_t> layer,
                Group group,
                std::vector<int32_t> after) {
    return emit({.lane = group == Group::kContextParallel ? Lane::kContext : Lane::kTensor,
                 .kind = kind,
                 .pass = pass,
                 .group = group,
                 .stage = c.stage,
                 .direction = c.micro_batch.direction,
                 .layer = layer,
                 .micro_batch = c.micro_batch.index,
                 .of = of},
                std::move(after));
  }
  bool shares_matrices() const { return spec_.layout.tp > 1; }
  bool shares_tokens() const { return shares_matrices() && spec_.layout.sequence_parallel; }
  bool shares_experts(std::optional<int32_t> layer) const {
    return spec_.layout.etp > 1 && layer && is_moe(*layer);
  }

  // --- weights and gradients that replicas share out (ZeRO; Rajbhandari et al. 2020, arXiv
  // 1910.02054)

  int32_t share_weights(const Chain& c,
                        OpKind kind,
                        Pass pass,
                        std::optional<int32_t> layer,
                        Group group,
                        std::vector<int32_t> after) {
    return emit({.lane = Lane::kData,
                 .kind = kind,
                 .pass = pass,
                 .group = group,
                 .stage = c.stage,
                 .direction = c.micro_batch.direction,
                 .layer = layer,
                 .micro_batch = c.micro_batch.index},
                std::move(after));
  }
  // The weights of a layer, or (layer: none) of the stage's ends, from all replicas' shards; each
  // layer's while the one before it computes.
  void gather_weights(const Chain& c, Pass pass, std::optional<int32_t> layer) {
    if (spec_.layout.zero_stage < 3 || spec_.mode == Mode::kPair) return;
    WeightIds ids;
    if (spec_.layout.replicas() > 1) {
      ids.dense =
          share_weights(c, OpKind::kParamGather, pass, layer, Group::kStageReplicas, c.after);
    }
    if (layer && is_moe(*layer) && spec_.layout.expert_replicas() > 1) {
      ids.experts =
          share_weights(c, OpKind::kParamGather, pass, layer, Group::kExpertReplicas, c.after);
    }
    weights_[{c.micro_batch.index, pass, layer.value_or(-1)}] = ids;
  }
  // What an op waits for besides its inputs.
  void need_weights(Chain& c, Pass pass, std::optional<int32_t> layer, bool experts) const {
    const auto found = weights_.find({c.micro_batch.index, work_of(pass), layer.value_or(-1)});
    if (found == weights_.end()) return;
    if (found->second.dense) c.after.push_back(*found->second.dense);
    if (experts && found->second.experts) c.after.push_back(*found->second.experts);
  }
  bool has_ends(int32_t stage) const { return stage == 0 || stage == last_stage(); }
  // Gradients are summed layer by layer: each micro-batch's, where replicas keep shards of the sums
  // alone, or behind the last.
  bool reduces_here(const Chain& c) const {
    if (spec_.mode != Mode::kTrain) return false;
    if (spec_.layout.zero_stage >= 2) return true;
    return spec_.layout.overlap_grad_reduce && last_backward_.at(c.micro_batch.direction) == cell_;
  }
  bool reduces_by_layer() const {
    return spec_.layout.zero_stage >= 2 || spec_.layout.overlap_grad_reduce;
  }
  void reduce_gradients(const Chain& c, std::optional<int32_t> layer) {
    if (!reduces_here(c)) return;
    if (spec_.layout.replicas() > 1) {
      last_reduced_[c.micro_batch.direction] = share_weights(
          c, OpKind::kGradReduce, Pass::kNone, layer, Group::kStageReplicas, {*last_compute_});
    }
    if (layer && is_moe(*layer) && spec_.layout.expert_replicas() > 1) {
      last_reduced_[c.micro_batch.direction] = share_weights(
          c, OpKind::kGradReduce, Pass::kNone, layer, Group::kExpertReplicas, {*last_compute_});
    }
  }

  // --- matrices and sequences that ranks share out

  // Before an op's F, and behind it.
  void gather(Chain& c, OpKind of, Pass pass, std::optional<int32_t> layer) {
    if (!shares_tokens()) return;
    c.after = {share(c, OpKind::kGather, of, pass, layer, Group::kTensorParallel, c.after)};
  }
  void scatter(Chain& c, OpKind of, Pass pass, std::optional<int32_t> layer) {
    if (!shares_matrices()) return;
    c.after = {share(c, OpKind::kScatter, of, pass, layer, Group::kTensorParallel, c.after)};
  }
  // Before an op's B, and behind it.
  void gather_gradients(Chain& c, OpKind of, std::optional<int32_t> layer) {
    if (!shares_tokens()) return;
    c.after = {
        share(c, OpKind::kScatter, of, Pass::kInput, layer, Group::kTensorParallel, c.after)};
  }
  void sum_gradients(Chain& c, OpKind of, std::optional<int32_t> layer) {
    if (!shares_matrices()) return;
    c.after = {share(c, OpKind::kGather, of, Pass::kInput, layer, Group::kTensorParallel, c.after)};
  }
  // What the op's W reads of the others' inputs: beside its B where W stands in the same cell.
  void gather_for_weights(const Chain& c,
                          OpKind of,
                          std::optional<int32_t> layer,
                          const std::vector<int32_t>& after) {
    const auto of_group = [&](Group group) {
      gathered_[{c.micro_batch.index, of, layer}].push_back(
          share(c, OpKind::kGather, of, Pass::kWeight, layer, group, after));
    };
    // Rows of experts are kept as they were gathered (plan/program/memory.h counts them so).
    const bool experts = of == OpKind::kMlp && layer && is_moe(*layer);
    if (shares_tokens() && (!experts || spec_.shared_experts)) of_group(Group::kTensorParallel);
  }

  static Lane send_lane(const Chain& c) {
    return c.micro_batch.direction == 0 ? Lane::kSend0 : Lane::kSend1;
  }
  static Lane recv_lane(const Chain& c) {
    return c.micro_batch.direction == 0 ? Lane::kRecv0 : Lane::kRecv1;
  }
  int32_t rank_of_stage(const Chain& c, int32_t stage) const {
    const Layout& l = spec_.layout;
    return static_cast<int32_t>(l.pp_rank_of(stage, l.slot_of(stage, c.micro_batch.direction)));
  }

  void receive(Chain& c, Pass pass) {
    const int32_t from = rank_of_stage(c, pass == Pass::kForward ? c.stage - 1 : c.stage + 1);
    if (from == rank_) {  // this rank holds both stages
      c.after = handed_on_.at({pass, c.micro_batch.index, c.stage, rank_});
      if (pass == Pass::kInput) {
        input_ops_[{c.micro_batch.index, OpKind::kRecv, {}}] = c.after.front();
      }
      return;
    }
    Op op{.lane = recv_lane(c),
          .kind = OpKind::kRecv,
          .pass = pass,
          .stage = c.stage,
          .direction = c.micro_batch.direction,
          .micro_batch = c.micro_batch.index,
          .peer = from};
    const int32_t id = emit(op, {});
    if (pass == Pass::kInput) input_ops_[{c.micro_batch.index, OpKind::kRecv, {}}] = id;
    receives_.emplace_back(id, MessageKey{pass, c.micro_batch.index, c.stage, rank_});
    c.after = {id};
  }

  void send(const Chain& c, Pass pass) {
    const int32_t next = pass == Pass::kForward ? c.stage + 1 : c.stage - 1;
    const int32_t to = rank_of_stage(c, next);
    const MessageKey key{pass, c.micro_batch.index, next, to};
    if (to == rank_) {
      handed_on_[key] = c.after;
      return;
    }
    Op op{.lane = send_lane(c),
          .kind = OpKind::kSend,
          .pass = pass,
          .stage = c.stage,
          .direction = c.micro_batch.direction,
          .micro_batch = c.micro_batch.index,
          .peer = to};
    sends_[key] = emit(op, c.after);
    if (!spec_.layout.overlap_p2p) unfinished_sends_.push_back(sends_[key]);
  }

  std::vector<int32_t> layers_of(int32_t stage) const {
    std::vector<int32_t> layers;
    const auto first = static_cast<int32_t>(spec_.layout.first_layer(stage));
    const auto count = spec_.layout.layers_per_stage[static_cast<size_t>(stage)];
    for (int32_t i = 0; i < count; ++i) layers.push_back(first + i);
    return layers;
  }

  // The heads' and MTP projections' ops are named by the MTP layer that they belong to; the main
  // head's, and the first projection's, by none.
  std::optional<int32_t> head_of(int64_t module) const {
    return module == 0 ? std::nullopt : std::optional(mtp_layer(module));
  }
  std::optional<int32_t> projection_of(int64_t module) const {
    return module == 1 ? std::nullopt : std::optional(mtp_layer(module));
  }

  std::vector<Step> forward_steps(int32_t stage) const {
    std::vector<Step> steps;
    for (const int32_t layer : layers_of(stage)) steps.push_back({{}, layer});
    if (stage == last_stage()) {
      for (int64_t module = 1; module <= spec_.mtp; ++module) {
        steps.push_back({{{OpKind::kHead, Pass::kForward, head_of(module - 1)},
                          {OpKind::kMtp, Pass::kForward, projection_of(module)}},
                         mtp_layer(module)});
      }
      steps.push_back({{{OpKind::kHead, Pass::kForward, head_of(spec_.mtp)}}, {}});
    }
    if (stage == 0) {
      if (steps.empty()) steps.emplace_back();
      steps.front().before.insert(steps.front().before.begin(),
                                  {OpKind::kEmbed, Pass::kForward, {}});
    }
    return steps;
  }

  std::vector<Step> backward_steps(int32_t stage) const {
    std::vector<Step> steps;
    std::vector<Step::Before> before;  // of the next layer
    const auto backward = [&](OpKind kind, std::optional<int32_t> layer) {
      before.push_back({kind, Pass::kInput, layer});
      before.push_back({kind, Pass::kWeight, layer});
    };
    const auto step = [&](std::optional<int32_t> layer) {
      steps.push_back({std::move(before), layer});
      before.clear();
    };
    if (stage == last_stage()) {
      for (int64_t module = spec_.mtp; module >= 0; --module) {
        if (module < spec_.mtp) backward(OpKind::kMtp, projection_of(module + 1));
        backward(OpKind::kHead, head_of(module));
        if (module > 0) step(mtp_layer(module));
      }
    }
    const std::vector<int32_t> layers = layers_of(stage);
    for (auto layer = layers.rbegin(); layer != layers.rend(); ++layer) step(*layer);
    if (!before.empty()) step({});
    if (stage == 0) steps.push_back({{{OpKind::kEmbed, Pass::kWeight, {}}}, {}});
    return steps;
  }

  // The compute ops that precede a layer. W ops are left out of a Bi; they hang off the op whose
  // output gradient they use (input_ops_).
  void before(Chain& c, const Step& step) {
    if (spec_.mode == Mode::kPair) return;
    for (const Step::Before& b : step.before) {
      if (b.pass == Pass::kWeight) {
        if (c.weights) weight(c, b.kind, b.layer);
        continue;
      }
      const bool head = b.kind == OpKind::kHead;
      need_weights(c, b.pass, std::nullopt, false);
      if (b.pass == Pass::kForward) {
        if (b.kind != OpKind::kEmbed) gather(c, b.kind, b.pass, b.layer);
        const int32_t id = emit(c, Lane::kCompute, b.kind, b.pass, b.layer, c.after);
        if (head) head_forward_[{c.micro_batch.index, b.layer}] = id;
        c.after = {id};
        if (!head) scatter(c, b.kind, b.pass, b.layer);
        continue;
      }
      if (!head) gather_gradients(c, b.kind, b.layer);
      if (c.weights) gather_for_weights(c, b.kind, b.layer, c.after);
      std::vector<int32_t> after = c.after;
      if (head) after.push_back(head_forward_.at({c.micro_batch.index, b.layer}));
      const int32_t id = emit(c, Lane::kCompute, b.kind, b.pass, b.layer, after);
      input_ops_[{c.micro_batch.index, b.kind, b.layer}] = id;
      c.after = {id};
      sum_gradients(c, b.kind, b.layer);
      // A stage of the head alone: its gradient leaves before its weight part too.
      if (head && !b.layer && c.stage > 0 && is_empty(c.stage)) send(c, Pass::kInput);
    }
  }

  void weight(const Chain& c, OpKind kind, std::optional<int32_t> layer) {
    // The embedding's gradient comes out of the first layer's attention, or from the next stage.
    const bool received = kind == OpKind::kEmbed && is_empty(c.stage);
    const OpKind from = received ? OpKind::kRecv : kind;
    std::vector<int32_t> after{input_ops_.at({c.micro_batch.index, from, layer})};
    if (kind == OpKind::kEmbed) {
      if (shares_tokens()) {
        after = {
            share(c, OpKind::kScatter, kind, Pass::kInput, layer, Group::kTensorParallel, after)};
      }
    } else {
      if (!c.weights) gather_for_weights(c, kind, layer, after);
      if (const auto found = gathered_.find({c.micro_batch.index, kind, layer});
          found != gathered_.end()) {
        after.insert(after.end(), found->second.begin(), found->second.end());
        gathered_.erase(found);
      }
    }
    emit(c, Lane::kCompute, kind, Pass::kWeight, layer, std::move(after));
    if (kind == OpKind::kAttn) reduce_gradients(c, layer);
    // The ends' gradients are whole behind the last of their ops.
    const bool last = kind == OpKind::kEmbed || (kind == OpKind::kHead && !layer && c.stage > 0);
    if (last) reduce_gradients(c, std::nullopt);
  }

  int32_t input(Chain& c, OpKind kind, int32_t layer) {
    const int32_t id = emit(c, Lane::kCompute, kind, Pass::kInput, layer, c.after);
    input_ops_[{c.micro_batch.index, kind, layer}] = id;
    c.after = {id};
    return id;
  }

  // Keys and values are made within attn: they are gathered when it could begin.
  void gather_context(Chain& c, Pass pass, int32_t layer) {
    const Layout& l = spec_.layout;
    if (l.cp == 1 || l.context != ContextKind::kGather) return;
    std::vector<int32_t> after = c.after;
    if (last_compute_) after.push_back(*last_compute_);
    c.after = {share(
        c, OpKind::kGather, OpKind::kAttn, pass, layer, Group::kContextParallel, std::move(after))};
  }
  bool rings() const { return spec_.layout.cp > 1 && spec_.layout.context == ContextKind::kRing; }
  int32_t ring(const Chain& c, Pass pass, int32_t layer) {
    return share(c, OpKind::kRing, OpKind::kAttn, pass, layer, Group::kContextParallel, c.after);
  }

  // pass: forward, or again.
  void attn_forward(Chain& c, int32_t layer, Pass pass = Pass::kForward) {
    gather(c, OpKind::kAttn, pass, layer);
    gather_context(c, pass, layer);
    need_weights(c, pass == Pass::kAgain ? Pass::kInput : pass, layer, false);
    std::vector<int32_t> both;
    if (rings()) {
      c.after = {emit(c, Lane::kCompute, OpKind::kQkv, pass, layer, c.after)};
      both.push_back(ring(c, pass, layer));
    }
    both.push_back(emit(c, Lane::kCompute, OpKind::kAttn, pass, layer, c.after));
    c.after = std::move(both);
    scatter(c, OpKind::kAttn, pass, layer);
  }
  void attn_input(Chain& c, int32_t layer) {
    gather_gradients(c, OpKind::kAttn, layer);
    if (c.weights) gather_for_weights(c, OpKind::kAttn, layer, c.after);
    gather_context(c, Pass::kInput, layer);
    if (!rings()) {
      input(c, OpKind::kAttn, layer);
    } else {
      const int32_t passed = ring(c, Pass::kInput, layer);
      c.after = {emit(c, Lane::kCompute, OpKind::kAttn, Pass::kInput, layer, c.after), passed};
      const int32_t id = emit(c, Lane::kCompute, OpKind::kQkv, Pass::kInput, layer, c.after);
      input_ops_[{c.micro_batch.index, OpKind::kAttn, layer}] = id;
      c.after = {id};
    }
    sum_gradients(c, OpKind::kAttn, layer);
    if (layer == 0) input_ops_[{c.micro_batch.index, OpKind::kEmbed, {}}] = c.after.front();
  }

  // Shared experts' tokens are gathered beside the dispatch, their results scattered beside the
  // combine.
  bool shares_shared(int32_t layer) const {
    return shares_matrices() && spec_.shared_experts && is_moe(layer);
  }
  void dispatch_forward(Chain& c, int32_t layer, Pass pass = Pass::kForward) {
    if (!is_moe(layer)) return;
    c.shared.clear();
    if (shares_shared(layer) && shares_tokens()) {
      c.shared = {
          share(c, OpKind::kGather, OpKind::kMlp, pass, layer, Group::kTensorParallel, c.after)};
    }
    all_to_all(c, OpKind::kDispatch, pass, layer);
  }
  void mlp_forward(Chain& c, int32_t layer, Pass pass = Pass::kForward) {
    const bool moe = is_moe(layer);
    if (!moe) gather(c, OpKind::kMlp, pass, layer);
    if (shares_experts(layer)) {
      c.after = {
          share(c, OpKind::kGather, OpKind::kMlp, pass, layer, Group::kExpertTensor, c.after)};
    }
    c.after.insert(c.after.end(), c.shared.begin(), c.shared.end());
    c.shared.clear();
    need_weights(c, pass == Pass::kAgain ? Pass::kInput : pass, layer, true);
    c.after = {emit(c, Lane::kCompute, OpKind::kMlp, pass, layer, c.after)};
    if (!moe) scatter(c, OpKind::kMlp, pass, layer);
    // The experts' first: the combine waits for it.
    const std::vector<int32_t> done = c.after;
    if (shares_experts(layer)) {
      c.after = {
          share(c, OpKind::kScatter, OpKind::kMlp, pass, layer, Group::kExpertTensor, c.after)};
    }
    if (shares_shared(layer)) {
      c.shared = {
          share(c, OpKind::kScatter, OpKind::kMlp, pass, layer, Group::kTensorParallel, done)};
    }
  }
  void combine_forward(Chain& c, int32_t layer, Pass pass = Pass::kForward) {
    all_to_all(c, OpKind::kCombine, pass, layer);
    c.after.insert(c.after.end(), c.shared.begin(), c.shared.end());
    c.shared.clear();
  }
  void combine_input(Chain& c, int32_t layer) {
    c.shared.clear();
    if (shares_shared(layer) && shares_tokens()) {
      c.shared = {share(
          c, OpKind::kScatter, OpKind::kMlp, Pass::kInput, layer, Group::kTensorParallel, c.after)};
    }
    all_to_all(c, OpKind::kCombine, Pass::kInput, layer);
  }
  void mlp_input(Chain& c, int32_t layer) {
    const bool moe = is_moe(layer);
    if (!moe) gather_gradients(c, OpKind::kMlp, layer);
    if (shares_experts(layer)) {
      c.after = {share(
          c, OpKind::kScatter, OpKind::kMlp, Pass::kInput, layer, Group::kExpertTensor, c.after)};
    }
    c.after.insert(c.after.end(), c.shared.begin(), c.shared.end());
    c.shared.clear();
    if (c.weights) gather_for_weights(c, OpKind::kMlp, layer, c.after);
    need_weights(c, Pass::kInput, layer, true);
    input(c, OpKind::kMlp, layer);
    if (!moe) sum_gradients(c, OpKind::kMlp, layer);
    const std::vector<int32_t> done = c.after;
    if (shares_experts(layer)) {
      c.after = {share(
          c, OpKind::kGather, OpKind::kMlp, Pass::kInput, layer, Group::kExpertTensor, c.after)};
    }
    if (shares_shared(layer)) {
      c.shared = {share(
          c, OpKind::kGather, OpKind::kMlp, Pass::kInput, layer, Group::kTensorParallel, done)};
    }
  }
  void dispatch_input(Chain& c, int32_t layer) {
    all_to_all(c, OpKind::kDispatch, Pass::kInput, layer);
    c.after.insert(c.after.end(), c.shared.begin(), c.shared.end());
    c.shared.clear();
  }
  void all_to_all(Chain& c, OpKind kind, Pass pass, int32_t layer) {
    if (!is_moe(layer)) return;
    c.after = {emit_all_to_all(c, kind, pass, layer, c.after)};
  }

  void forward_layer(Chain& c, int32_t layer, Pass pass = Pass::kForward) {
    attn_forward(c, layer, pass);
    dispatch_forward(c, layer, pass);
    mlp_forward(c, layer, pass);
    combine_forward(c, layer, pass);
  }
  // A layer's forward once more, where all that was kept is its input: beside it the gradient of
  // its output may still be on its way.
  void again(Chain& c, int32_t layer) {
    if (!spec_.recompute_layers) return;
    const std::vector<int32_t> gradient = c.after;
    forward_layer(c, layer, Pass::kAgain);
    c.after.insert(c.after.end(), gradient.begin(), gradient.end());
  }

  void backward_layer(Chain& c, int32_t layer) {
    again(c, layer);
    combine_input(c, layer);
    mlp_input(c, layer);
    if (c.weights) weight(c, OpKind::kMlp, layer);
    dispatch_input(c, layer);
    attn_input(c, layer);
    end_of_backward_layer(c, layer);
  }

  // The gradient leaves for the previous stage before the weight part of its last op.
  void end_of_backward_layer(Chain& c, int32_t layer) {
    const bool first = !is_empty(c.stage) && layer == spec_.layout.first_layer(c.stage);
    if (c.stage > 0 && first) send(c, Pass::kInput);
    if (c.weights) weight(c, OpKind::kAttn, layer);
  }

  void overlapped_layer(Chain& f, int32_t f_layer, Chain& b, int32_t b_layer) {
    again(b, b_layer);
    combine_input(b, b_layer);
    attn_forward(f, f_layer);
    dispatch_forward(f, f_layer);
    mlp_input(b, b_layer);
    dispatch_input(b, b_layer);
    weight(b, OpKind::kMlp, b_layer);
    mlp_forward(f, f_layer);
    combine_forward(f, f_layer);
    attn_input(b, b_layer);
    end_of_backward_layer(b, b_layer);
  }

  void begin(Chain& c, Pass pass) {
    const bool first = pass == Pass::kForward ? c.stage == 0 : c.stage == last_stage();
    if (!first) receive(c, pass);
  }

  void emit_cell(const Cell& cell) {
    if (spec_.granularity == Granularity::kCell) {
      whole_cell(cell);
    } else if (cell.kind == CellKind::kBackwardWeight) {
      deferred_weights(cell);
    } else {
      layers_of_cell(cell);
    }
    ++cell_;
  }

  Chain forward_chain(const Cell& cell) const {
    return {.micro_batch = cell.forward, .stage = stage_of(cell.forward), .after = {}};
  }
  Chain backward_chain(const Cell& cell) const {
    return {.micro_batch = cell.backward,
            .stage = stage_of(cell.backward),
            .after = {},
            .weights = cell.kind != CellKind::kBackwardInput};
  }

  void layers_of_cell(const Cell& cell) {
    std::vector<Step> forward, backward;
    Chain f, b;
    if (cell.has_forward()) {
      f = forward_chain(cell);
      forward = forward_steps(f.stage);
      begin(f, Pass::kForward);
    }
    if (cell.has_backward()) {
      b = backward_chain(cell);
      backward = backward_steps(b.stage);
      begin(b, Pass::kInput);
    }
    const size_t steps = std::max(forward.size(), backward.size());
    for (size_t i = 0; i < steps; ++i) {
      const bool has_f = i < forward.size();
      const bool has_b = i < backward.size();
      if (has_f) gather_ahead(f, Pass::kForward, forward, i);
      if (has_b) gather_ahead(b, Pass::kInput, backward, i);
      if (has_f) before(f, forward[i]);
      if (has_b) before(b, backward[i]);
      const bool f_layer = has_f && forward[i].layer;
      const bool b_layer = has_b && backward[i].layer;
      if (f_layer && b_layer) {
        overlapped_layer(f, *forward[i].layer, b, *backward[i].layer);
      } else if (f_layer) {
        forward_layer(f, *forward[i].layer);
      } else if (b_layer) {
        backward_layer(b, *backward[i].layer);
      }
      if (has_f && i + 1 == forward.size() && f.stage < last_stage()) send(f, Pass::kForward);
    }
  }

  // A step's weights, where it is the first, and the next one's.
  void gather_ahead(const Chain& c, Pass pass, const std::vector<Step>& steps, size_t i) {
    // Backward reads the head's; the embedding's gradient reads no weights.
    const bool ends = pass == Pass::kForward ? has_ends(c.stage) : c.stage == last_stage();
    if (i == 0 && ends) gather_weights(c, pass, std::nullopt);
    if (i == 0 && steps[0].layer) gather_weights(c, pass, steps[0].layer);
    if (i + 1 < steps.size() && steps[i + 1].layer) gather_weights(c, pass, steps[i + 1].layer);
  }

  void deferred_weights(const Cell& cell) {
    const Chain c = backward_chain(cell);
    for (const Step& step : backward_steps(c.stage)) {
      for (const Step::Before& b : step.before) {
        if (b.pass == Pass::kWeight) weight(c, b.kind, b.layer);
      }
      if (!step.layer) continue;
      weight(c, OpKind::kMlp, *step.layer);
      weight(c, OpKind::kAttn, *step.layer);
    }
  }

  void whole_cell(const Cell& cell) {
    Chain f = forward_chain(cell);
    Chain b = backward_chain(cell);
    std::vector<int32_t> after;
    const bool is_weight = cell.kind == CellKind::kBackwardWeight;
    if (cell.has_forward()) {
      begin(f, Pass::kForward);
      after.insert(after.end(), f.after.begin(), f.after.end());
    }
    if (cell.has_backward() && !is_weight) {
      begin(b, Pass::kInput);
      after.insert(after.end(), b.after.begin(), b.after.end());
    }
    const Pass pass = cell.kind == CellKind::kForward         ? Pass::kForward
                      : cell.kind == CellKind::kBackwardInput ? Pass::kInput
                      : is_weight                             ? Pass::kWeight
                                                              : Pass::kNone;
    const Chain& named = cell.has_forward() ? f : b;
    const int32_t id = emit(named, Lane::kCompute, OpKind::kCell, pass, {}, after);
    f.after = b.after = {id};
    if (cell.has_forward() && f.stage < last_stage()) send(f, Pass::kForward);
    if (cell.has_backward() && !is_weight && b.stage > 0) send(b, Pass::kInput);
  }

  // What ends a step, per copy of a stage in the order of stages, so that both ranks of a DualPipe
  // pair enqueue their shared collectives alike.
  void end_step() {
    if (spec_.granularity == Granularity::kCell) return;
    const Layout& layout = spec_.layout;
    struct Copy {
      int32_t direction, stage;
      bool moe;
    };
    std::vector<Copy> copies;
    for (int32_t d = 0; d < layout.slots(); ++d) {
      const auto stage = static_cast<int32_t>(layout.stage_of(rank_, d));
      bool moe = spec_.mtp > 0 && stage == last_stage() && is_moe(mtp_layer(1));
      for (const int32_t layer : layers_of(stage)) moe |= is_moe(layer);
      copies.push_back({d, stage, moe});
    }
    std::sort(copies.begin(), copies.end(), [](const Copy& a, const Copy& b) {
      return a.stage < b.stage;
    });

    const auto of_stage = [&](const Copy& c, Lane lane, OpKind kind, Group group) {
      return Op{
          .lane = lane, .kind = kind, .group = group, .stage = c.stage, .direction = c.direction};
    };
    const bool replicated = layout.replicas() > 1;
    const bool experts_replicated = layout.expert_replicas() > 1;
    const auto last_use = last_of_direction_;
    std::vector<int32_t> reduced;
    for (const Copy& c : copies) {
      // Where both ends stand on a rank MTP modules add to the table of the first stage.
      int32_t last = last_use.at(c.direction);
      if (spec_.mtp > 0 && c.stage == 0 && layout.ends_meet()) {
        for (const Copy& other : copies) {
          if (other.stage == last_stage()) last = std::max(last, last_use.at(other.direction));
        }
      }
      reduced.push_back(last);
      if (spec_.tied_embeddings && has_ends(c.stage)) {
        reduced.push_back(
            emit(of_stage(c, Lane::kAllToAll, OpKind::kGradReduce, Group::kEmbeddings), {last}));
      }
      if (reduces_by_layer()) {
        if (const auto op = last_reduced_.find(c.direction); op != last_reduced_.end()) {
          reduced.push_back(op->second);
        }
        if (c.moe && spec_.expert_bias) {
          emit(of_stage(c, Lane::kAllToAll, OpKind::kBiasUpdate, Group::kStageReplicas), {last});
        }
        continue;
      }
      if (replicated) {
        reduced.push_back(
            emit(of_stage(c, Lane::kAllToAll, OpKind::kGradReduce, Group::kStageReplicas), {last}));
      }
      if (experts_replicated && c.moe) {
        reduced.push_back(emit(
            of_stage(c, Lane::kAllToAll, OpKind::kGradReduce, Group::kExpertReplicas), {last}));
      }
      if (c.moe && spec_.expert_bias) {
        emit(of_stage(c, Lane::kAllToAll, OpKind::kBiasUpdate, Group::kStageReplicas), {last});
      }
    }
    const int32_t norm = emit({.lane = Lane::kAllToAll,
                               .kind = OpKind::kGradNorm,
                               .group = Group::kWorld,
                               .stage = copies[0].stage,
                               .direction = copies[0].direction},
                              reduced);
    for (const Copy& c : copies) {
      const int32_t updated =
          emit(of_stage(c, Lane::kCompute, OpKind::kOptimizer, Group::kNone), {norm});
      if (layout.zero_stage == 0 || layout.zero_stage == 3) continue;
      if (replicated) {
        emit(of_stage(c, Lane::kAllToAll, OpKind::kParamGather, Group::kStageReplicas), {updated});
      }
      if (experts_replicated && c.moe) {
        emit(of_stage(c, Lane::kAllToAll, OpKind::kParamGather, Group::kExpertReplicas), {updated});
      }
    }
  }

  const Program::Spec& spec_;
  std::vector<RankSchedule> schedules_;
  std::vector<Op> ops_;
  std::vector<std::vector<int32_t>> dependencies_;
  int32_t rank_ = 0;
  int32_t cell_ = 0;
  // Of the rank at hand: backward-input ops, which W ops depend on; head.F ops, which head.B does;
  // the last compute op per direction.
  std::map<std::tuple<int32_t, OpKind, std::optional<int32_t>>, int32_t> input_ops_;
  std::map<std::pair<int32_t, std::optional<int32_t>>, int32_t> head_forward_;
  // What W ops to come read, gathered.
  std::map<std::tuple<int32_t, OpKind, std::optional<int32_t>>, std::vector<int32_t>> gathered_;
  // Weights that have been gathered, by micro-batch, pass and layer (-1: the stage's ends).
  struct WeightIds {
    std::optional<int32_t> dense, experts;
  };
  std::map<std::tuple<int32_t, Pass, int32_t>, WeightIds> weights_;
  std::map<int32_t, int32_t> last_backward_;  // cell with the last W of each direction
  std::map<int32_t, int32_t> last_reduced_;   // op
  std::optional<int32_t> last_compute_;
  std::vector<int32_t> unfinished_sends_;  // that the next compute op waits for
  std::map<int32_t, int32_t> last_of_direction_;
  std::map<MessageKey, std::vector<int32_t>> handed_on_;  // between stages of the rank at hand
  std::map<MessageKey, int32_t> sends_;
  std::vector<std::pair<int32_t, MessageKey>> receives_;
};

}  // namespace

Program Program::build(const Spec& spec) {
  const Layout& l = spec.layout;
  CHECK(static_cast<int64_t>(l.layers_per_stage.size()) == l.stages())
      << "one layer count per stage";
  const std::string wrong = facts_of(l.schedule).check_ranks(l.pp);
  CHECK(wrong.empty()) << wrong;
  CHECK(spec.mode != Mode::kPair || l.pp == 1) << "a pair is of one pipeline rank";
  CHECK(l.stage_ranks() % (l.ep * l.etp) == 0)
      << "EP " << l.ep << " x ETP " << l.etp << " does not divide " << l.stage_ranks();
  // What is surely too large is refused before anything is held: a layer's forward and backward are
  // at least attn and mlp with F, B, W.
  constexpr int64_t kFewestOps = 6;
  int64_t layers = 0;
  for (const int64_t n : l.layers_per_stage) layers += n;
  const bool forward = spec.mode == Mode::kForward;
  if (spec.granularity == Granularity::kOp &&
      layers > kMostOps / (forward ? 2 : kFewestOps) / spec.micro_batches) {
    too_many_ops(spec);
  }
  return Builder(spec).build();
}

Program::Spec program_spec(const Plan& plan, Mode mode) {
  const Architecture& a = plan.model.architecture;
  return {.layout = plan.layout,
          .micro_batches = plan.training.micro_batches,
          .dense = a.experts > 0 ? a.dense : LayerSet::leading(a.layers + a.mtp_depth),
          .mtp = a.mtp_depth,
          .expert_bias = a.expert_bias,
          .shared_experts = a.shared_experts > 0 && plan.layout.tp > 1,
          .recompute_layers = plan.training.recompute.layer,
          .tied_embeddings = (a.tied_embeddings || a.mtp_depth > 0) && !plan.layout.ends_meet(),
          .mode = mode};
}

Program build_program(const Plan& plan, Mode mode) {
  try {
    return Program::build(program_spec(plan, mode));
  } catch (const InputError& e) {
    throw InputError(fmt::format("{}: training.micro_batches: {}", plan.path, e.what()));
  }
}

}  // namespace rehearse
