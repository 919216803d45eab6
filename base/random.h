#pragma once
// Random numbers that are the same on every machine and in every layout (SplitMix64, Steele et al.
// 2014; Box-Muller for normals), which the standard library's distributions do not promise.

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>
#include <vector>

namespace rehearse {

constexpr uint64_t kSplitMixStep = 0x9e3779b97f4a7c15ULL;

// The number behind `state` in SplitMix64's sequence; as a function of it, a hash.
constexpr uint64_t split_mix(uint64_t state) {
  uint64_t z = state + kSplitMixStep;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    const uint64_t number = split_mix(state_);
    state_ += kSplitMixStep;
    return number;
  }
  // In (0, 1].
  double uniform() { return (static_cast<double>(next() >> 11) + 1) * 0x1.0p-53; }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  uint64_t state_;
};

// A seed for the stream that `name` names (FNV-1a).
inline uint64_t stream_seed(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ULL ^ (seed * kSplitMixStep);
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

// Gumbel noise (-log -log u) of 65,536 evenly spread u, to be drawn from by 16 bits: logarithms of
// logarithms are slow.
const std::vector<float>& gumbel_table();

}  // namespace rehearse
