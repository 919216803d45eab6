#include "kernels/gate/gate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <Eigen/Core>

namespace rehearse::kernels {
namespace {

using In = Eigen::Map<const Eigen::ArrayXf>;
using Out = Eigen::Map<Eigen::ArrayXf>;

constexpr float kOut = -std::numeric_limits<float>::infinity();

void score(const GateShape& s, const float* logits, float* scores) {
  const In x(logits, s.experts);
  Out y(scores, s.experts);
  if (s.sigmoid) {
    y = 1.0f / (1.0f + (-x).exp());
  } else {
    y = (x - x.maxCoeff()).exp();
    y /= y.sum();
  }
}

// Index of the largest of values[0, n), the first of equals.
int64_t largest(const float* values, int64_t n) {
  return std::max_element(values, values + n) - values;
}

// Sets the choices of all but the best groups to -infinity.
void limit_groups(const GateShape& s, bool biased, float* choice, float* group_scores) {
  const int64_t size = s.experts / s.groups;
  for (int64_t g = 0; g < s.groups; ++g) {
    float best = kOut;
    float second = kOut;
    for (int64_t e = g * size; e < (g + 1) * size; ++e) {
      if (choice[e] > best) {
        second = best;
        best = choice[e];
      } else if (choice[e] > second) {
        second = choice[e];
      }
    }
    group_scores[g] = biased && size > 1 ? best + second : best;
  }
  for (int64_t kept = 0; kept < s.kept_groups; ++kept) {
    group_scores[largest(group_scores, s.groups)] = kOut;
  }
  for (int64_t g = 0; g < s.groups; ++g) {
    if (group_scores[g] == kOut) continue;
    std::fill(choice + g * size, choice + (g + 1) * size, kOut);
  }
}

}  // namespace

void gate(const GateShape& s,
          const float* logits,
          const float* bias,
          float* scores,
          int32_t* chosen,
          float* weights) {
  std::vector<float> choice(static_cast<size_t>(s.experts));
  std::vector<float> group_scores(static_cast<size_t>(s.groups));
  for (int64_t t = 0; t < s.tokens; ++t) {
    float* token_scores = scores + t * s.experts;
    score(s, logits + t * s.experts, token_scores);
    for (int64_t e = 0; e < s.experts; ++e) {
      choice[static_cast<size_t>(e)] = token_scores[e] + (bias == nullptr ? 0.0f : bias[e]);
    }
    if (s.kept_groups < s.groups)
      limit_groups(s, bias != nullptr, choice.data(), group_scores.data());
    float sum = 0;
    for (int64_t k = 0; k < s.active; ++k) {
      const int64_t best = largest(choice.data(), s.experts);
      choice[static_cast<size_t>(best)] = kOut;
      chosen[t * s.active + k] = static_cast<int32_t>(best);
      weights[t * s.active + k] = token_scores[best];
      sum += token_scores[best];
    }
    const float factor = static_cast<float>(s.scaling) / (s.normalize ? sum : 1.0f);
    for (int64_t k = 0; k < s.active; ++k) weights[t * s.active + k] *= factor;
  }
}

namespace {

// f_i of the sequence that starts at `first`.
void selection_frequency(const GateShape& s,
                         const BalanceLoss& loss,
                         const int32_t* chosen,
                         int64_t first,
                         std::vector<float>& f) {
  std::fill(f.begin(), f.end(), 0.0f);
  const float each = static_cast<float>(s.experts) / static_cast<float>(s.active * loss.length);
  for (int64_t i = first * s.active; i < (first + loss.length) * s.active; ++i) {
    f[static_cast<size_t>(chosen[i])] += each;
  }
}

}  // namespace

double balance_loss(const GateShape& s,
                    const BalanceLoss& loss,
                    const float* scores,
                    const int32_t* chosen) {
  std::vector<float> f(static_cast<size_t>(s.experts));
  double total = 0;
  for (int64_t first = 0; first < s.tokens; first += loss.length) {
    selection_frequency(s, loss, chosen, first, f);
    for (int64_t t = first; t < first + loss.length; ++t) {
      const In token(scores + t * s.experts, s.experts);
      total += static_cast<double>((In(f.data(), s.experts) * token).sum() / token.sum());
    }
  }
  return loss.coefficient * total / static_cast<double>(loss.length);
}

void gate_backward(const GateShape& s,
                   const BalanceLoss& loss,
                   const float* d_weights,
                   const float* scores,
                   const int32_t* chosen,
                   float* d_logits) {
  std::vector<float> f(static_cast<size_t>(s.experts));
  Eigen::ArrayXf d_scores(s.experts);
  const auto scaling = static_cast<float>(s.scaling);
  const auto share = static_cast<float>(loss.coefficient / static_cast<double>(loss.length));
  for (int64_t t = 0; t < s.tokens; ++t) {
    if (loss.coefficient != 0 && t % loss.length == 0) {
      selection_frequency(s, loss, chosen, t, f);
    }
    const In token(scores + t * s.experts, s.experts);
    const int32_t* picks = chosen + t * s.active;
    const float* d_w = d_weights + t * s.active;
    d_scores.setZero();
    if (loss.coefficient != 0) {
      // d/ds_i of sum_j f_j s_j / Z with Z = sum_j s_j
      const In frequency(f.data(), s.experts);
      const float z = token.sum();
      d_scores = share / z * (frequency - (frequency * token).sum() / z);
    }
    float sum = 0;
    float dot = 0;
    for (int64_t k = 0; k < s.active; ++k) {
      sum += token[picks[k]];
      dot += d_w[k] * token[picks[k]];
    }
    for (int64_t k = 0; k < s.active; ++k) {
      d_scores[picks[k]] += s.normalize ? scaling * (d_w[k] - dot / sum) / sum : scaling * d_w[k];
    }
    Out out(d_logits + t * s.experts, s.experts);
    if (s.sigmoid) {
      out = d_scores * token * (1.0f - token);
    } else {
      out = token * (d_scores - (d_scores * token).sum());
    }
  }
}

}  // namespace rehearse::kernels
