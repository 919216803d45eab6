#include "kernels/gate/gate.h"

#include "kernels/testing/check.h"

namespace rehearse::kernels {
namespace {

std::vector<GateShape> shapes() {
  return {{.tokens = 64, .experts = 16, .active = 4, .groups = 4, .kept_groups = 2},
          {.tokens = 128,
           .experts = 256,
           .active = 8,
           .groups = 8,
           .kept_groups = 4,
           .scaling = 2.5},  // DeepSeek-V3
          {.tokens = 32, .experts = 64, .active = 6, .sigmoid = false, .normalize = false},
          {.tokens = 4, .experts = 4, .active = 4, .groups = 4, .kept_groups = 4}};
}

TEST(Gate, ChoosesAndWeighsLikeTheReference) {
  Inputs inputs;
  for (const GateShape& s : shapes()) {
    const auto logits = inputs.normal(s.tokens * s.experts);
    const auto bias = inputs.normal(s.experts, 0.1);
    std::vector<double> scores(logits.size()), weights(s.tokens * s.active);
    std::vector<int32_t> chosen(weights.size()), got(weights.size());
    gate_reference(
        s, logits.data(), bias.data(), false, scores.data(), chosen.data(), weights.data());
    Guarded fast_scores(s.tokens * s.experts), fast_weights(s.tokens * s.active);
    gate(s,
         floats(logits).data(),
         floats(bias).data(),
         fast_scores.data(),
         got.data(),
         fast_weights.data());
    // Random logits of double precision hold no near ties at this size: choices are the same.
    EXPECT_EQ(got, chosen);
    expect_close(fast_scores.data(), scores, 1e-6, "scores");
    expect_close(fast_weights.data(), weights, 1e-5, "weights");
  }
}

TEST(Gate, TheBiasChoosesButDoesNotWeigh) {
  const GateShape s{.tokens = 1, .experts = 4, .active = 1};
  const std::vector<float> logits = {0.0f, 1.0f, 2.0f, 3.0f};
  const std::vector<float> bias = {10.0f, 0.0f, 0.0f, 0.0f};
  float scores[4], weight;
  int32_t chosen;
  GateShape plain = s;
  plain.normalize = false;
  gate(plain, logits.data(), bias.data(), scores, &chosen, &weight);
  EXPECT_EQ(chosen, 0);
  EXPECT_FLOAT_EQ(weight, 0.5f);  // sigmoid(0)
}

// A group's score is the sum of its two best choices where the gate has a bias, and its best choice
// where it has none, whatever the score function.
TEST(Gate, GroupScoresGoByTheBias) {
  for (const bool sigmoid : {true, false}) {
    const GateShape s{
        .tokens = 1, .experts = 4, .active = 1, .groups = 2, .kept_groups = 1, .sigmoid = sigmoid};
    // The first group has the best expert, the second the better two.
    const std::vector<float> logits = {2.0f, -4.0f, 1.8f, 1.8f};
    const std::vector<float> none(4, 0.0f);
    float scores[4], weight;
    int32_t chosen;
    gate(s, logits.data(), nullptr, scores, &chosen, &weight);
    EXPECT_EQ(chosen, 0);
    gate(s, logits.data(), none.data(), scores, &chosen, &weight);
    EXPECT_EQ(chosen, 2);
  }
}

TEST(Gate, DroppedGroupsAreOutEvenWithNegativeBiases) {
  // All choices are negative: masking with 0 instead of -infinity would prefer dropped experts.
  const GateShape s{.tokens = 1, .experts = 4, .active = 2, .groups = 2, .kept_groups = 1};
  const std::vector<float> logits = {3.0f, 2.0f, 1.0f, 0.0f};
  const std::vector<float> bias = {-5.0f, -5.0f, -5.0f, -5.0f};
  float scores[4], weights[2];
  int32_t chosen[2];
  gate(s, logits.data(), bias.data(), scores, chosen, weights);
  EXPECT_EQ(chosen[0], 0);
  EXPECT_EQ(chosen[1], 1);
}

TEST(Gate, TiesGoToTheLowerIndex) {
  const GateShape s{.tokens = 1, .experts = 8, .active = 3, .groups = 4, .kept_groups = 2};
  const std::vector<float> logits(8, 0.0f);
  float scores[8], weights[3];
  int32_t chosen[3];
  gate(s, logits.data(), nullptr, scores, chosen, weights);
  EXPECT_EQ(chosen[0], 0);
  EXPECT_EQ(chosen[1], 1);
  EXPECT_EQ(chosen[2], 2);
}

TEST(Gate, GradientOfWeightsAndBalanceLoss) {
  Inputs inputs;
  for (const GateShape& s : shapes()) {
    if (s.experts == s.active && s.normalize && s.tokens < 4) continue;
    const auto logits = inputs.normal(s.tokens * s.experts);
    const auto d_weights = inputs.normal(s.tokens * s.active);
    const BalanceLoss loss{.length = s.tokens / 2, .coefficient = 0.7};
    Guarded scores(s.tokens * s.experts), weights(s.tokens * s.active),
        d_logits(s.tokens * s.experts);
    std::vector<int32_t> chosen(static_cast<size_t>(s.tokens * s.active));
    gate(s, floats(logits).data(), nullptr, scores.data(), chosen.data(), weights.data());
    gate_backward(s, loss, floats(d_weights).data(), scores.data(), chosen.data(), d_logits.data());
    // Outputs: the weights, and the balance loss as one more with dy = 1.
    const auto f = [&](const std::vector<double>& x) {
      std::vector<double> s_(x.size()), w(d_weights.size());
      std::vector<int32_t> fixed = chosen;
      gate_reference(s, x.data(), nullptr, true, s_.data(), fixed.data(), w.data());
      double total = 0;
      for (int64_t first = 0; first < s.tokens; first += loss.length) {
        std::vector<double> frequency(static_cast<size_t>(s.experts), 0.0);
        for (int64_t i = first * s.active; i < (first + loss.length) * s.active; ++i) {
          frequency[static_cast<size_t>(fixed[static_cast<size_t>(i)])] +=
              static_cast<double>(s.experts) / static_cast<double>(s.active * loss.length);
        }
        for (int64_t t = first; t < first + loss.length; ++t) {
          double z = 0;
          double weighted = 0;
          for (int64_t e = 0; e < s.experts; ++e) {
            const double score = s_[static_cast<size_t>(t * s.experts + e)];
            z += score;
            weighted += frequency[static_cast<size_t>(e)] * score;
          }
          total += weighted / z / static_cast<double>(loss.length);
        }
      }
      w.push_back(loss.coefficient * total);
      return w;
    };
    std::vector<double> dy = d_weights;
    dy.push_back(1);
    expect_gradient(inputs, f, logits, dy, d_logits.data(), 1e-5, "d_logits");
    EXPECT_NEAR(balance_loss(s, loss, scores.data(), chosen.data()), f(logits).back(), 1e-5);
  }
}

}  // namespace
}  // namespace rehearse::kernels
