#pragma once
// Megatron-LM's arguments that describe a model, held against a plan's.

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/megatron_words.h"
#include "plan/plan.h"

namespace rehearse::cli {

struct ModelArguments {
  const Plan& plan;
  const std::map<std::string, const GivenArgument*>& given;  // by name, the last of each
  const std::string& path;                                   // for errors

  const GivenArgument* find(const char* name) const {
    const auto at = given.find(name);
    return at == given.end() ? nullptr : at->second;
  }
};

// Those that describe a model; whether `name` is one.
std::vector<std::string> model_arguments();
bool is_model_argument(const std::string& name);
// What the plan's model has instead ("has 48"); empty where it has the same. Throws InputError for
// values that Megatron-LM would not take. REQUIRES: is_model_argument, and it is given.
std::string model_differs(const std::string& name, const ModelArguments& arguments);

// Values of one argument. Throw InputError naming it.
std::string the_value(const GivenArgument& argument, const std::string& path);
int64_t the_integer(const GivenArgument& argument, const std::string& path, int64_t least = 1);
bool the_flag(const GivenArgument& argument, const std::string& path);

}  // namespace rehearse::cli
