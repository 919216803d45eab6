// Placements of 256 experts with 64 replicas more on 64 ranks, as DeepSeek's serving has them: time
// per layer, and the fullest rank over the bound.

#include <cmath>

#include <benchmark/benchmark.h>

#include "base/random.h"
#include "plan/routing/replicas.h"

namespace rehearse {
namespace {

// Popularity with a standard deviation of its logarithm of per cent.
std::vector<double> loads_of(int64_t per_cent, uint64_t seed) {
  Random random(seed);
  std::vector<double> loads(256);
  for (double& w : loads) w = std::exp(static_cast<double>(per_cent) / 100 * random.normal());
  return loads;
}

void place(benchmark::State& state, PlacementPolicy policy) {
  const PlacementShape shape{.ranks = 64, .slots = 5, .nodes = 8, .groups = 8};
  uint64_t seed = 0;
  double worst = 0;
  for (auto _ : state) {
    const std::vector<double> loads = loads_of(state.range(0), ++seed);
    const Placement p = placement_by(policy, loads, shape);
    const std::vector<double> ranks = rank_loads(p, loads);
    const PlacementBound bound = placement_bound(loads, shape);
    worst = std::max(
        worst, *std::ranges::max_element(ranks) / std::max(bound.mean, bound.with_companions));
  }
  state.counters["worst_over_bound"] = worst;
}
BENCHMARK_CAPTURE(place, published, PlacementPolicy::kPublished)->Arg(30)->Arg(100)->Arg(150);
BENCHMARK_CAPTURE(place, global, PlacementPolicy::kGlobal)->Arg(30)->Arg(100)->Arg(150);
BENCHMARK_CAPTURE(place, hierarchical, PlacementPolicy::kHierarchical)->Arg(30)->Arg(100);

void spread(benchmark::State& state) {
  const PlacementShape shape{.ranks = 64, .slots = 5};
  const std::vector<double> loads = loads_of(100, 1);
  const Placement p = balanced_placement(loads, shape);
  for (auto _ : state) benchmark::DoNotOptimize(best_spread(p, loads));
}
BENCHMARK(spread);

}  // namespace
}  // namespace rehearse
