#pragma once
// Argument lists of Megatron-LM's training scripts, read and written.

#include <string>
#include <vector>

#include "search/space.h"

namespace rehearse::cli {

// The same layout as arguments (names as in megatron/training/arguments.py).
std::string megatron_arguments(const Plan& base, const Candidate& candidate);

struct MegatronRun {
  Candidate candidate;
  std::vector<std::string> not_read;  // arguments that say nothing about a layout
};
// What a list of arguments lays out on `gpus` devices; what it does not say is Megatron-LM's
// default. Throws InputError naming the argument, and where the layout is not legal.
MegatronRun read_megatron(const std::string& arguments, int64_t gpus, const Plan& base);

}  // namespace rehearse::cli
