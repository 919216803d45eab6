#pragma once
// The keys of a plan file, mapping by mapping: what each takes and means and what a plan without it
// means. The reader asks for no others, and `rehearse help plan` prints them.

#include <string>
#include <vector>

#include "base/yaml.h"

namespace rehearse {

struct KeySection {
  std::string name;  // the mapping's key; empty: the top of the file
  std::string about;
  std::vector<YamlKey> keys;
};
// The top first, then mappings in the order of their keys.
const std::vector<KeySection>& plan_keys();
// REQUIRES: there is such a section.
const std::vector<YamlKey>& plan_keys(const std::string& section);

}  // namespace rehearse
