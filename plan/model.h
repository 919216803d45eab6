#pragma once
// A model description: our YAML, or a Hugging Face config.json of model_type deepseek_v3.

#include <string>

#include "cost/architecture.h"

namespace rehearse {

struct Model {
  std::string name;
  Architecture architecture;
  double init_std = 0.006;  // standard deviation of initial weights (report, section 4.2)
};

// Reads `path`, a config.json when it ends so. Throws InputError naming file, line and key.
Model load_model(const std::string& path);

// Our YAML form; load_model of it gives the same Model.
std::string print_model(const Model& model);

}  // namespace rehearse
