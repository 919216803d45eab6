#pragma once
// What a training is: every number that decides its results, as names and values that a checkpoint
// keeps, and what it means for going on from one that a number is another.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "plan/plan.h"

namespace rehearse {

// What it means that a key of the plan changed between saving and going on.
enum class OnResume : uint8_t {
  kModel,   // another model: refused
  kData,    // other data, or another order of it: refused
  kRecipe,  // another recipe: listed, and gone on with where that is asked for
  kLayout,  // the same training laid out otherwise: told
  kNothing  // decides nothing of a training's results
};
inline constexpr NameTable kOnResume{
    std::to_array<Named<OnResume>>({{OnResume::kModel, "model"},
                                    {OnResume::kData, "data"},
                                    {OnResume::kRecipe, "recipe"},
                                    {OnResume::kLayout, "layout"},
                                    {OnResume::kNothing, "nothing"}})};
static_assert(kOnResume.complete());

// A key of a plan file.
struct ResumeRule {
  std::string section, key;  // as plan/keys.h has them
  OnResume on_change = OnResume::kNothing;
  std::string why;
  // Its value as a text; none where other facts stand for it, or nothing depends on it.
  std::function<std::string(const Plan&)> value = {};
};
// One for every key of a plan.
const std::vector<ResumeRule>& resume_rules();

struct Fact {
  OnResume on_change = OnResume::kModel;
  std::string key, value;
  bool operator==(const Fact&) const = default;
};

// Those of the rules; every line of the model's description; of the data its size and checksum
// (TextData), and how many sequences a step has.
std::vector<Fact> facts_of(const Plan& plan, int64_t text_bytes, uint32_t text_checksum);

struct Difference {
  OnResume on_change = OnResume::kModel;
  std::string key, there, here;
};
// In the order of `here`; what one side does not say is "not said".
std::vector<Difference> differences(const std::vector<Fact>& there, const std::vector<Fact>& here);

// "key there -> here", one after the other.
std::string to_string(const std::vector<Difference>& list);

}  // namespace rehearse
