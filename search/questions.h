#pragma once
// Questions beside "which layout": what would need less memory, what is the largest that fits, what
// becomes of a layout in another phase of the training.

#include <optional>
#include <string>
#include <vector>

#include "search/search.h"

namespace rehearse {

// One change to a layout that needs less memory.
struct MemoryWay {
  std::string what;
  Candidate candidate;
  Bytes need;
  Bytes saved;
  double step_change = 0;  // relative, told by the formulas
};
// Of the fullest rank; those first that give a GB for least time. Changes that are not legal, or
// save less than 1%, are left out.
std::vector<MemoryWay> ways_to_need_less(const Plan& base,
                                         const std::optional<Calibration>& calibration,
                                         const Candidate& candidate,
                                         double imbalance);

enum class Grown : uint8_t {
  kSequence,  // tokens per sequence, multiples of 1024
  kLayers,
  kExperts  // routed experts of a layer, multiples of as many as there are groups
};
inline constexpr NameTable kGrown{std::to_array<Named<Grown>>(
    {{Grown::kSequence, "sequence"}, {Grown::kLayers, "layers"}, {Grown::kExperts, "experts"}})};
static_assert(kGrown.complete());

// Whether any layout of the space fits in memory.
bool any_fits(const Plan& base,
              const std::optional<Calibration>& calibration,
              const SearchSpace& space,
              const SearchOptions& options);

struct Largest {
  int64_t value = 0;      // the largest of those tried that fits
  int64_t too_large = 0;  // the smallest of those that does not
};
// base and space as asked; they become those of the largest. `asked`: the space before it was
// filled. Throws InputError where not even what is asked fits.
Largest largest(Plan& base,
                const std::optional<Calibration>& calibration,
                const SearchSpace& asked,
                SearchSpace& space,
                Grown what,
                const SearchOptions& options);

// A phase of a training: steps of so many sequences, of so many tokens.
struct PhaseAsked {
  std::string name;
  int64_t batch = 0, sequence = 0;
};
struct PhaseAnswer {
  PhaseAsked phase;
  std::string why_not;          // the layout is not legal there; empty where it is
  std::optional<Scored> same;   // the layout there, whether it fits or not
  std::optional<Scored> other;  // the best layout there, where the same is not legal, or short
};
// What becomes of a layout in other phases. asked: as of `largest`.
std::vector<PhaseAnswer> in_phases(const Plan& base,
                                   const std::optional<Calibration>& calibration,
                                   const SearchSpace& asked,
                                   const Candidate& candidate,
                                   const std::vector<PhaseAsked>& phases,
                                   const SearchOptions& options);

}  // namespace rehearse
