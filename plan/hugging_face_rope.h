#pragma once
// RoPE in a Hugging Face config.json: rope_theta and how angles are stretched. transformers 5 has
// all of it in rope_parameters, older ones at the top and in rope_scaling.

#include "base/yaml.h"
#include "plan/model.h"

namespace rehearse {

// Theta and scaling, into `m`. REQUIRES: the sizes of m's heads. Throws InputError for keys that
// the type of scaling does not have, and where two places say two things.
void read_rope(YamlMap& top, Model& m);

// The share of a head that is rotated: at the top, or in rope_parameters.
double rotated_share(YamlMap& top, double missing);

}  // namespace rehearse
