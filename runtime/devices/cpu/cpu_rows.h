#pragma once
// ExpertRows of experts on cores.

#include "runtime/compute/compute.h"

namespace rehearse {

// How many there are.
int64_t rows_of(const ExpertRows& rows);

// A map of `slots` into memory with room for some rows: what map_rows does where that is given.
// Returns how many found none.
int64_t fill_rows(const ConstArray& slots,
                  const Array& expert_rows,
                  const Array& token_of_row,
                  const Array& choice_of_row,
                  const Array& row_of);

}  // namespace rehearse
