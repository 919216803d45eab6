#pragma once
// Checks of a layer's kernels, written once for a GPU and for the imitation: every kernel beside
// FP64 of the same values, within what FP32 and the stored format allow, twice with the same bits.

#include <functional>
#include <string>
#include <vector>

#include "kernels/checking/outcome.h"
#include "kernels/checking/target.h"

namespace rehearse::kernels {

struct LayerCheck {
  std::string name;
  std::function<Outcome(Target&)> run;
};

// Odd widths, one row, several blocks of threads, both types.
std::vector<LayerCheck> layer_checks();

// Of files of their own.
void add_codes_checks(std::vector<LayerCheck>& all);
void add_exchange_checks(std::vector<LayerCheck>& all);

}  // namespace rehearse::kernels
