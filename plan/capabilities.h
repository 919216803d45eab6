#pragma once
// What can be simulated and what can be trained, on cores and on a card, in one table. `train`
// refuses by name what it cannot; `inspect` prints it.

#include <functional>
#include <string>
#include <vector>

#include "base/names.h"
#include "plan/plan.h"

namespace rehearse {

// What models may have that this project's kernels for cores do not compute: simulated on GPUs
// alone.
struct ModelFeature {
  std::string name;
  bool (*uses)(const Architecture& a) = nullptr;
};
const std::vector<ModelFeature>& model_features();

// What trains.
enum class TrainOn : uint8_t { kCores, kCard };
inline constexpr NameTable kTrainOn{
    std::to_array<Named<TrainOn>>({{TrainOn::kCores, "cpu"}, {TrainOn::kCard, "cuda"}})};
static_assert(kTrainOn.complete());
// Unless it is told: a plan for GPUs on a card, all others on cores.
TrainOn trained_on(const Plan& plan);

struct Capability {
  std::string feature;
  bool simulate = false;
  bool cores = false, card = false;       // trained on
  std::function<bool(const Plan&)> uses;  // whether a plan needs it
};

const std::vector<Capability>& capabilities();

// Throw InputError naming the features of `plan` that cannot be simulated (trained), and what can.
void require_simulate(const Plan& plan);
void require_train(const Plan& plan, TrainOn on);

}  // namespace rehearse
