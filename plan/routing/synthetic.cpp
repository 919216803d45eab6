#include "plan/routing/synthetic.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "base/random.h"
#include "plan/routing/load_shape.h"

namespace rehearse {
namespace {

double variation(const std::vector<double>& a, const std::vector<double>& b) {
  const double sum_a = std::accumulate(a.begin(), a.end(), 0.0);
  const double sum_b = std::accumulate(b.begin(), b.end(), 0.0);
  double distance = 0;
  for (size_t i = 0; i < a.size(); ++i) distance += std::abs(a[i] / sum_a - b[i] / sum_b) / 2;
  return distance;
}

// Tokens whose first choices are counted for what layers say of each other: a table of experts by
// experts wants many, and its noise is the same for a trace and what is made of it.
using Pairs = std::vector<double>;  // [experts x experts]
void count_pairs(const RecordedStep& step, int64_t layer, Pairs& pairs) {
  const RoutingShape& s = step.shape;
  const auto k = static_cast<size_t>(s.active);
  for (int64_t m = 0; m < s.micro_batches; ++m) {
    const auto before = step.of(m, layer - 1);
    const auto here = step.of(m, layer);
    for (size_t t = 0; t < before.size(); t += k) {
      for (size_t i = 0; i < k; ++i) {
        for (size_t j = 0; j < k; ++j) {
          ++pairs[static_cast<size_t>(before[t + i]) * static_cast<size_t>(s.experts) +
                  here[t + j]];
        }
      }
    }
  }
}

}  // namespace

RoutingFigures figures_of(const std::vector<RecordedStep>& steps) {
  RoutingFigures f;
  const RoutingShape& s = steps.front().shape;
  const auto experts = static_cast<size_t>(s.experts);
  const auto k = static_cast<size_t>(s.active);
  double parts = 0, shared = 0, choices = 0;
  for (const RecordedStep& step : steps) {
    for (int64_t m = 0; m < s.micro_batches; ++m) {
      for (int64_t l = 0; l < s.layers; ++l) {
        const auto of = step.of(m, l);
        std::vector<double> loads(experts, 0);
        for (const uint16_t e : of) ++loads[e];
        const LoadShape shape = load_shape(std::move(loads));
        f.max += shape.max;
        f.gini += shape.gini;
        ++parts;
        for (size_t t = k; t < of.size(); t += k) {
          for (size_t i = t; i < t + k; ++i) {
            shared += std::find(of.begin() + static_cast<ptrdiff_t>(t - k),
                                of.begin() + static_cast<ptrdiff_t>(t),
                                of[i]) != of.begin() + static_cast<ptrdiff_t>(t);
          }
          choices += static_cast<double>(k);
        }
      }
    }
  }
  f.max /= parts;
  f.gini /= parts;
  f.neighbours = choices > 0 ? shared / choices : 0;
  double weight = 0;
  for (int64_t l = 1; l < s.layers; ++l) {
    Pairs pairs(experts * experts, 0);
    for (const RecordedStep& step : steps) count_pairs(step, l, pairs);
    std::vector<double> alone(experts, 0);
    for (size_t i = 0; i < pairs.size(); ++i) alone[i % experts] += pairs[i];
    for (size_t e = 0; e < experts; ++e) {
      const auto row = pairs.begin() + static_cast<ptrdiff_t>(e * experts);
      const std::vector<double> known(row, row + static_cast<ptrdiff_t>(experts));
      const double n = std::accumulate(known.begin(), known.end(), 0.0);
      if (n == 0) continue;
      f.layers += n * variation(known, alone);
      weight += n;
    }
  }
  if (weight > 0) f.layers /= weight;
  double compared = 0;
  for (size_t i = 1; i < steps.size(); ++i) {
    for (int64_t l = 0; l < s.layers; ++l) {
      const auto before = steps[i - 1].expert_tokens(l);
      const auto now = steps[i].expert_tokens(l);
      f.drift += variation({before.begin(), before.end()}, {now.begin(), now.end()});
      ++compared;
    }
  }
  if (compared > 0) f.drift /= compared;
  return f;
}

RoutingModel::RoutingModel(const std::vector<RecordedStep>& steps)
    : shape_(steps.front().shape), figures_(figures_of(steps)) {
  const auto experts = static_cast<size_t>(shape_.experts);
  for (const RecordedStep& step : steps) {
    std::vector<float> logs;
    for (int64_t l = 0; l < shape_.layers; ++l) {
      for (const int64_t n : step.expert_tokens(l)) {
        logs.push_back(static_cast<float>(std::log(static_cast<double>(n) + 0.1)));
      }
    }
    weights_.push_back(std::move(logs));
  }
  for (int64_t l = 1; l < shape_.layers; ++l) {
    Pairs pairs(experts * experts, 0);
    for (const RecordedStep& step : steps) count_pairs(step, l, pairs);
    std::vector<double> from(experts, 0), to(experts, 0);
    double all = 0;
    for (size_t i = 0; i < pairs.size(); ++i) {
      from[i / experts] += pairs[i];
      to[i % experts] += pairs[i];
      all += pairs[i];
    }
    std::vector<float> says(pairs.size());
    for (size_t i = 0; i < pairs.size(); ++i) {
      // Against what chance would have, a few tokens of which are taken for seen.
      const double chance = all == 0 ? 0 : from[i / experts] * to[i % experts] / all;
      says[i] = static_cast<float>(std::log((pairs[i] + 4) / (chance + 4)));
    }
    says_.push_back(std::move(says));
  }
  // Each by halves, in turn, on steps made of it.
  const auto fit = [&](double& parameter, double most, double RoutingFigures::*figure) {
    double low = 0, high = most;
    for (int i = 0; i < 7; ++i) {
      parameter = (low + high) / 2;
      const double got = figures_of(make(1, 1)).*figure;
      (got < figures_.*figure ? low : high) = parameter;
    }
  };
  for (int round = 0; round < 3; ++round) {
    set_weights(steps);
    if (shape_.layers > 1) fit(power_, 4, &RoutingFigures::layers);
    fit(repeat_, 0.99, &RoutingFigures::neighbours);
  }
}

void RoutingModel::set_weights(const std::vector<RecordedStep>& steps) {
  const auto experts = static_cast<size_t>(shape_.experts);
  for (int round = 0; round < 4; ++round) {
    for (size_t i = 0; i < steps.size(); ++i) {
      const RecordedStep made =
          make_step(static_cast<int64_t>(i), 17 + static_cast<uint64_t>(round));
      for (int64_t l = 0; l < shape_.layers; ++l) {
        const auto want = steps[i].expert_tokens(l);
        const auto got = made.expert_tokens(l);
        for (size_t e = 0; e < experts; ++e) {
          const double off =
              std::log((static_cast<double>(want[e]) + 1) / (static_cast<double>(got[e]) + 1));
          weights_[i][static_cast<size_t>(l) * experts + e] +=
              static_cast<float>(std::clamp(off, -1.0, 1.0));
        }
      }
    }
  }
}

std::vector<RecordedStep> RoutingModel::make(int64_t count, uint64_t seed) const {
  std::vector<RecordedStep> steps;
  for (int64_t n = 0; n < count; ++n) steps.push_back(make_step(n, seed));
  return steps;
}

RecordedStep RoutingModel::make_step(int64_t number, uint64_t seed) const {
  const auto experts = static_cast<size_t>(shape_.experts);
  const auto k = static_cast<size_t>(shape_.active);
  const std::vector<float>& noise = gumbel_table();
  const std::vector<float>& weights = weights_[static_cast<size_t>(number) % weights_.size()];
  RecordedStep step{.shape = shape_, .number = number, .choices = {}};
  step.choices.resize(static_cast<size_t>(shape_.micro_batches * shape_.layers * shape_.choices()));
  std::vector<std::pair<float, uint16_t>> scores(experts);
  for (int64_t m = 0; m < shape_.micro_batches; ++m) {
    uint64_t state = split_mix(seed ^ split_mix(static_cast<uint64_t>(number * 1'000'003 + m)));
    const auto next = [&] { return state = split_mix(state); };
    for (int64_t t = 0; t < shape_.tokens; ++t) {
      for (int64_t l = 0; l < shape_.layers; ++l) {
        const auto base = [&](int64_t layer) {
          return static_cast<size_t>((m * shape_.layers + layer) * shape_.choices() +
                                     t * shape_.active);
        };
        const size_t at = base(l);
        const auto chosen = std::span(step.choices).subspan(at, k);
        size_t have = 0;
        for (size_t i = 0; t > 0 && i < k; ++i) {
          if (static_cast<double>(next() >> 11) * 0x1.0p-53 < repeat_) {
            chosen[have++] = step.choices[at - k + i];
          }
        }
        if (have == k) continue;
        const float* const own = weights.data() + static_cast<size_t>(l) * experts;
        for (size_t e = 0; e < experts; ++e) scores[e] = {own[e], static_cast<uint16_t>(e)};
        for (size_t j = 0; l > 0 && power_ > 0 && j < k; ++j) {
          const float* const row =
              says_[static_cast<size_t>(l) - 1].data() + step.choices[base(l - 1) + j] * experts;
          const auto power = static_cast<float>(power_);
          for (size_t e = 0; e < experts; ++e) scores[e].first += power * row[e];
        }
        uint64_t bits = 0;
        for (size_t e = 0; e < experts; ++e) {
          if (e % 4 == 0) bits = next();
          scores[e].first += noise[bits & 0xffff];
          bits >>= 16;
        }
        for (size_t i = 0; i < have; ++i) scores[chosen[i]].first = -INFINITY;
        std::partial_sort(scores.begin(),
                          scores.begin() + static_cast<ptrdiff_t>(k - have),
                          scores.end(),
                          std::greater<>());
        for (size_t i = have; i < k; ++i) chosen[i] = scores[i - have].second;
      }
    }
  }
  return step;
}

double misfit(const RoutingFigures& trace, const RoutingFigures& made) {
  double sum = 0, count = 0;
  for (const auto part : {&RoutingFigures::max,
                          &RoutingFigures::gini,
                          &RoutingFigures::neighbours,
                          &RoutingFigures::layers,
                          &RoutingFigures::drift}) {
    if (trace.*part <= 0) continue;
    sum += std::abs(made.*part / (trace.*part) - 1);
    ++count;
  }
  return count > 0 ? sum / count : 0;
}

}  // namespace rehearse
