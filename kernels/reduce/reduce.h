#pragma once
// Sum of several copies of a vector, in the order given.

#include <cstdint>
#include <span>

namespace rehearse::kernels {

// out[i] = copies[0][i] + copies[1][i] + ...; out may be one of the copies.
void reduce(std::span<const float* const> copies, int64_t elements, float* out);

}  // namespace rehearse::kernels
