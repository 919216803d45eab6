#include "plan/routing/synthetic.h"

#include <cmath>

#include <gtest/gtest.h>

#include "base/random.h"

namespace rehearse {
namespace {

// Tokens that go on with their neighbour's experts with probability `repeat`, else draw them by a
// skewed popularity that moves from step to step; the next layer's experts follow this one's.
std::vector<RecordedStep> trace_of(double repeat, uint64_t seed) {
  const RoutingShape shape{
      .micro_batches = 4, .layers = 3, .tokens = 512, .active = 4, .experts = 32};
  Random random(seed);
  std::vector<double> popularity(32);
  for (double& p : popularity) p = std::exp(0.8 * random.normal());
  std::vector<RecordedStep> steps;
  for (int64_t s = 0; s < 3; ++s) {
    for (double& p : popularity) p *= std::exp(0.2 * random.normal());
    RecordedStep step{.shape = shape, .number = s, .choices = {}};
    step.choices.resize(static_cast<size_t>(4 * 3 * shape.choices()));
    for (size_t m = 0; m < 4; ++m) {
      for (size_t t = 0; t < 512; ++t) {
        for (size_t l = 0; l < 3; ++l) {
          const size_t at = (m * 3 + l) * 2048 + t * 4;
          std::vector<uint16_t> chosen;
          for (size_t i = 0; i < 4; ++i) {
            if (t > 0 && random.uniform() < repeat) chosen.push_back(step.choices[at - 4 + i]);
          }
          while (chosen.size() < 4) {
            double sum = 0;
            for (const double p : popularity) sum += p;
            double u = random.uniform() * sum;
            size_t e = 0;
            while (e < 31 && (u -= popularity[e]) > 0) ++e;
            // Half of a later layer's experts are the neighbours of the one's before.
            if (l > 0 && random.uniform() < 0.5) {
              e = (step.choices[at - 2048 + random.next() % 4] + 1u) % 32;
            }
            if (std::ranges::find(chosen, static_cast<uint16_t>(e)) == chosen.end()) {
              chosen.push_back(static_cast<uint16_t>(e));
            }
          }
          std::ranges::copy(chosen, step.choices.begin() + static_cast<ptrdiff_t>(at));
        }
      }
    }
    steps.push_back(std::move(step));
  }
  return steps;
}

TEST(SyntheticRouting, IsLikeTheTrace) {
  for (const double repeat : {0.0, 0.6}) {
    const std::vector<RecordedStep> trace = trace_of(repeat, 3);
    const RoutingModel model(trace);
    const std::vector<RecordedStep> made = model.make(3, 99);
    EXPECT_LT(misfit(figures_of(trace), figures_of(made)), 0.15) << repeat;
    for (const RecordedStep& step : made) {
      for (int64_t m = 0; m < 4; ++m) {
        const auto of = step.of(m, 1);
        EXPECT_EQ(why_not_choices(std::vector<int32_t>(of.begin(), of.end()), 4, 32), "");
      }
    }
    // The same of the same seed, others of another.
    EXPECT_EQ(model.make(1, 5).front().choices, model.make(1, 5).front().choices);
    EXPECT_NE(model.make(1, 5).front().choices, model.make(1, 6).front().choices);
  }
  // Figures tell traces apart.
  EXPECT_GT(misfit(figures_of(trace_of(0.0, 3)), figures_of(trace_of(0.6, 3))), 0.2);
}

}  // namespace
}  // namespace rehearse
