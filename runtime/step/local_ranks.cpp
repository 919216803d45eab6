#include "runtime/step/local_ranks.h"

#include <algorithm>
#include <cmath>

#include "runtime/compute/yarn.h"
#include "runtime/step/step_end.h"

namespace rehearse {

LocalRanks::LocalRanks(const Plan& plan,
                       const PrecisionRecipe& recipe,
                       const Program& program,
                       const TextData& data,
                       Communicator& communicator,
                       TrainingDevice& device)
    : plan_(plan),
      program_(program),
      data_(data),
      communicator_(communicator),
      device_(device),
      recipe_(recipe) {
  const Layout& l = plan.layout;
  const std::vector<Placement> placements = placements_of(plan);
  ranks_.resize(static_cast<size_t>(l.world()));
  for (const int64_t global : communicator.local_ranks()) {
    const Place p = l.place_of(global);
    auto rank = std::make_unique<RankState>(device.pool(global), device.compute(global));
    for (int64_t slot = 0; slot < l.slots(); ++slot) {
      rank->copies.emplace_back(plan,
                                recipe_,
                                rank->pool.memory(),
                                l.stage_of(p.pp_rank, slot),
                                l.expert_index_of(p.data_rank),
                                placements);
      start_weights(plan, recipe_, program, p, rank->compute, rank->copies.back());
    }
    if (l.ep > 1) rank->experts.emplace(plan, p.pp_rank, p.data_rank);
    ranks_[static_cast<size_t>(global)] = std::move(rank);
  }
}

LocalRanks::~LocalRanks() = default;

void LocalRanks::abort() {
  aborted_ = true;
  aborted_.notify_all();
  device_.abort();
}

void LocalRanks::begin_step(const StepSettings& settings) {
  settings_ = settings;
  device_.begin_step();
  for (const auto& rank : ranks_) {
    if (rank == nullptr) continue;
    rank->held_micro_batches = rank->peak_micro_batches = 0;
    rank->overflowed.clear();
    for (Stage& s : rank->copies) s.clear_counts();
  }
}

void LocalRanks::enqueue(const OpAt& at, const Ready& ready) {
  if (fault_ == at.op.id && at.data_rank == 0 && !settings_.validation) {
    aborted_.wait(false);
    throw RunAborted();
  }
  device_.begin(at, rank_of(at));
  work(at.op, at.data_rank, ready);
  device_.end(at, rank_of(at), [&] { return load_of(at.op, at.data_rank); });
}

void LocalRanks::wait(const OpAt& at, OpId dependency) {
  device_.wait(at, rank_of(at), dependency);
}

void LocalRanks::end_step(Timeline& timeline) {
  device_.end_step(timeline);
  if (settings_.validation || settings_.probe) return;
  for (const auto& rank : ranks_) {
    if (rank != nullptr) settle(plan_, *rank);
  }
}

RankState& LocalRanks::rank_at(int64_t global_rank) const {
  const auto& rank = ranks_[static_cast<size_t>(global_rank)];
  CHECK(rank != nullptr) << "rank " << global_rank << " is on another process";
  return *rank;
}

Stage& LocalRanks::stage(int64_t pp_rank, int32_t data_rank, int32_t slot) {
  return rank_at(program_.global_rank({static_cast<int32_t>(pp_rank), data_rank}))
      .copies[static_cast<size_t>(slot)];
}

MemberLoad LocalRanks::load_of(const Op& op, int32_t data_rank) {
  MemberLoad load;
  if (!op.layer || !plan_.model.architecture.is_moe(*op.layer)) return load;
  const Stage& s = stage(op.pp_rank, data_rank, op.direction);
  const RowMap& rows =
      s.chunks[static_cast<size_t>(*op.micro_batch)].layers[s.local_layer(*op.layer)].rows;
  if (rows.empty()) return load;
  const ConstArray counts = rows.expert_rows;
  std::vector<int32_t> here(static_cast<size_t>(counts.extent.size()));
  device_.pool(program_.global_rank({op.pp_rank, data_rank}))
      .memory()
      .read(counts.data, here.data(), counts.extent.buffer_bytes());
  load.expert_rows.assign(here.begin(), here.end());
  return load;
}

StepResults LocalRanks::results() const {
  StepResults results(plan_, settings_.micro_batches);
  const Layout& l = plan_.layout;
  const int64_t experts = plan_.model.architecture.experts;
  std::optional<std::vector<double>> status;
  const auto add = [](const std::vector<int64_t>& values, int64_t at, std::vector<int64_t>& to) {
    for (size_t i = 0; i < values.size(); ++i) to[static_cast<size_t>(at) + i] += values[i];
  };
  for (const int64_t global : communicator_.local_ranks()) {
    const RankState& rank = rank_at(global);
    results.peak_memory[static_cast<size_t>(global)] = rank.pool.peak();
    if (!status) status = rank.status.values<double>();
    const size_t first =
        static_cast<size_t>(l.place_of(global).data_rank * settings_.micro_batches);
    for (const Stage& s : rank.copies) {
      add(s.bad_outputs.values<int64_t>(), s.first_layer, results.bad_outputs);
      add(s.bad_gradients.values<int64_t>(), s.first_layer, results.bad_gradients);
      const auto loads = s.expert_load.values<int64_t>();
      for (size_t layer = 0; layer < s.where.layers.size(); ++layer) {
        const int64_t row = (s.first_layer + static_cast<int64_t>(layer)) * experts;
        add({loads.begin() + s.load_begins[layer], loads.begin() + s.load_begins[layer + 1]},
            row,
            results.expert_load);
      }
      // Of the copies of the last stage one had the micro-batch; the others' loss is 0.
      if (!l.is_last(s.index)) continue;
      const auto losses = s.losses.values<double>();
      for (size_t m = 0; m < static_cast<size_t>(settings_.micro_batches); ++m) {
        results.losses[first + m] += losses[m];
        for (size_t module = 0; module < s.where.mtp.size(); ++module) {
          results.mtp_losses[module * results.losses.size() + first + m] +=
              losses[(module + 1) * s.chunks.size() + m];
        }
      }
    }
  }
  if (status) {
    results.gradient_norm = std::sqrt((*status)[StepStatus::kSquares]);
    results.overflowed = static_cast<int64_t>((*status)[StepStatus::kOverflow]);
  }
  results.overruns = device_.overruns();
  return results;
}

LocalRanks::Recorded LocalRanks::recorded_choices(int64_t layer,
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

}  // namespace rehearse
