#pragma once
// RoPE's angles and attention's scale under YaRN (Peng et al. 2023, arXiv 2309.00071), as
// DeepSeek's and Hugging Face's code have them; without it, plain RoPE's.

#include <vector>

#include "plan/model.h"

namespace rehearse {

// Radians per position of every pair of the rotated part.
std::vector<double> rope_frequencies(const Model& model);
// A factor on the rotated parts.
double rope_amplitude(const Model& model);
// A factor on attention's scale.
double softmax_factor(const Model& model);

}  // namespace rehearse
