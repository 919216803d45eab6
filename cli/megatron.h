#pragma once
// Layouts as arguments of Megatron-LM's training script (megatron/training/arguments.py), written
// and read.

#include <string>
#include <vector>

#include "search/space.h"

namespace rehearse::cli {

// Arguments for a layout. Megatron-LM has no DualPipe, say: then they are those of the nearest
// layout that it runs, and the notes tell what is otherwise.
struct MegatronLine {
  std::string arguments;
  Candidate runs;                  // what they lay out
  bool is_other = false;           // than the layout asked for, which Megatron-LM does not run
  std::vector<std::string> notes;  // why `runs` is another, and what no argument says
};
MegatronLine megatron_line(const Plan& base, const Candidate& candidate);
inline std::string megatron_arguments(const Plan& base, const Candidate& candidate) {
  return megatron_line(base, candidate).arguments;
}

struct MegatronRun {
  Candidate candidate;
  std::vector<std::string> not_read;  // arguments that change nothing of layout, memory or time
  std::vector<std::string> notes;     // what is to be known of the others
};
// What a list of arguments lays out on `gpus` devices; what it does not say is Megatron-LM's
// default. path: what errors call the list. Throws InputError naming the argument: where it is of
// another model, is not understood and may decide layout, memory or time, is refused by
// Megatron-LM's own checks, or lays out what is not legal.
MegatronRun read_megatron(const std::string& arguments,
                          int64_t gpus,
                          const Plan& base,
                          const std::string& path = "Megatron-LM's arguments");

// Why Megatron-LM does not overlap all-to-alls of such a layout with other micro-batches'
// computation (--overlap-moe-expert-parallel-comm); empty where it does.
std::string no_overlapped_all_to_alls(const Plan& base, const Candidate& candidate);

}  // namespace rehearse::cli
