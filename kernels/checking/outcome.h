#pragma once
// What a check found.

#include <random>
#include <string>

namespace rehearse::kernels {

struct Outcome {
  std::string name;  // of the case
  bool passed = false;
  std::string found;  // a line: the errors against their bounds, or what went wrong
  // Of checks by bound, else 0: the worst error as a share of its bound, the root mean square of
  // all errors as a share of the expected.
  double worst = 0;
  double rms = 0;
};

// The same numbers in every run of a case.
inline std::mt19937_64 random_of(const std::string& name) {
  std::seed_seq seed(name.begin(), name.end());
  return std::mt19937_64(seed);
}

}  // namespace rehearse::kernels
