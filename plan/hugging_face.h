#pragma once
// Hugging Face's config.json, read as a model. Keys that change the architecture or its cost are
// understood, or refused by name; so are keys that nobody here knows.

#include "base/yaml.h"
#include "plan/model.h"

namespace rehearse {

// A config.json is YAML too, so it gets the same positions and the same strictness about values. A
// value of null counts as left out, as transformers has it. Throws InputError.
Model read_hugging_face(YamlMap top);

}  // namespace rehearse
