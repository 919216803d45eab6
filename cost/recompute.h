#pragma once
// What of a layer is computed again for backward, not kept.

#include <array>

#include "base/names.h"

namespace rehearse {

// What of a layer is not kept for backward but computed again.
struct Recompute {
  bool norms = true;           // of tokens; the report's recipe is these three
  bool up_projections = true;  // MLA's expansions of queries, keys and values
  bool activations = true;     // SwiGLU or GeLU
  bool core = false;           // of attention ("selective" in Megatron-LM)
  bool layer = false;          // all of it from its input ("full")
  bool operator==(const Recompute&) const = default;
};

// One of what a Recompute holds.
enum class Recomputable : uint8_t { kNorms, kUpProjections, kActivations, kSelective, kFull };
inline constexpr NameTable kRecomputable{
    std::to_array<Named<Recomputable>>({{Recomputable::kNorms, "norms"},
                                        {Recomputable::kUpProjections, "up_projections"},
                                        {Recomputable::kActivations, "activations"},
                                        {Recomputable::kSelective, "selective"},
                                        {Recomputable::kFull, "full"}})};
static_assert(kRecomputable.complete());
void set_recompute(Recompute& recompute, Recomputable part);

}  // namespace rehearse
