#pragma once
// What can be simulated and what can be run, in one table. `train` refuses by name what it cannot
// run; `inspect` prints it.

#include <functional>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace rehearse {

// What models may have that this project's kernels for cores do not compute: simulated on GPUs
// alone.
struct ModelFeature {
  std::string name;
  bool (*uses)(const Architecture& a) = nullptr;
};
const std::vector<ModelFeature>& model_features();

struct Capability {
  std::string feature;
  bool simulate = false;
  bool run = false;
  std::function<bool(const Plan&)> uses;  // whether a plan needs it
};

const std::vector<Capability>& capabilities();

// Throws InputError naming the features of `plan` that cannot be simulated (run), and what can.
void require_simulate(const Plan& plan);
void require_run(const Plan& plan);

}  // namespace rehearse
