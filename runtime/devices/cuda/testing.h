#pragma once
// Trainings on an imitated card, for tests.

#include <gtest/gtest.h>

#include "kernels/ptx/imitation/shared_memory.h"
#include "runtime/devices/cpu/cpu_device.h"
#include "runtime/devices/cuda/gpu/imitated_gpu.h"
#include "runtime/devices/cuda/gpu_device.h"
#include "runtime/testing.h"
#include "runtime/train.h"

namespace rehearse {

// A Trainer on an imitated card, and that card.
struct CardTrainer {
  explicit CardTrainer(const Plan& plan,
                       ImitatedOptions imitated = {},
                       GpuOptions options = {},
                       Duration hang_timeout = kDefaultHangTimeout)
      : trainer(plan,
                test_text_path(),
                {.device =
                     [&](const Plan& p, Communicator& c) {
                       auto card = std::make_unique<ImitatedGpu>(imitated);
                       gpu = card.get();
                       auto made = std::make_unique<GpuDevice>(
                           p, c, std::move(card), rope_table(p), options);
                       device = made.get();
                       return made;
                     },
                 .hang_timeout = hang_timeout}) {}
  ImitatedGpu* gpu = nullptr;
  GpuDevice* device = nullptr;
  Trainer trainer;
};

struct Trained {
  std::vector<double> losses, norms;
  std::vector<std::vector<int64_t>> loads;
  std::vector<NamedTensor> weights;
};
inline Trained run(Trainer& trainer, int64_t steps) {
  Trained t;
  for (int64_t i = 0; i < steps; ++i) {
    const StepLog log = trainer.step(i);
    t.losses.push_back(log.loss);
    for (const double l : log.mtp_losses) t.losses.push_back(l);
    t.norms.push_back(log.gradient_norm);
    const auto load = trainer.last_results().load_of(1);
    t.loads.emplace_back(load.begin(), load.end());
  }
  t.weights = trainer.ranks().state(StateKind::kWeights);
  return t;
}
inline Trained run_on_card(const Plan& plan, int64_t steps, uint64_t seed) {
  CardTrainer card(plan, {.seed = seed});
  return run(card.trainer, steps);
}
inline Trained run_on_cores(const Plan& plan, int64_t steps) {
  Trainer cores(plan, test_text_path());
  return run(cores, steps);
}

inline void expect_same_bits(const Trained& a, const Trained& b) {
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  ASSERT_EQ(a.weights.size(), b.weights.size());
  for (size_t i = 0; i < a.weights.size(); ++i) {
    EXPECT_EQ(a.weights[i].values, b.weights[i].values) << a.weights[i].name;
  }
}

}  // namespace rehearse
