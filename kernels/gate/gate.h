#pragma once
// The MoE gate: scores, group-limited choice, weights.
//   s = score(logits); choice = s + bias; a group's score: the sum of its 2 best choices where
//   there is a bias, its best choice where there is none; experts outside the kept groups are out;
//   top-k of choice; weight_i = scaling * s_i (/ sum of chosen s, when normalised). Ties go to the
//   lower index.
// Source: DeepSeek-V3 technical report, equations 12-16; its released inference code for the
// group score, which goes by whether the gate has a bias, and for masking with -infinity.

#include <cstdint>

namespace rehearse::kernels {

struct GateShape {
  int64_t tokens = 0;
  int64_t experts = 0;
  int64_t active = 0;  // k
  int64_t groups = 1;  // divides experts
  int64_t kept_groups = 1;
  bool sigmoid = true;  // else softmax over experts
  bool normalize = true;
  double scaling = 1;
};

// logits: [tokens, experts]; bias: [experts] or null; scores: [tokens, experts], s;
// chosen: [tokens, active], expert indices in descending order of choice;
// weights: [tokens, active].
void gate(const GateShape& s,
          const float* logits,
          const float* bias,
          float* scores,
          int32_t* chosen,
          float* weights);

// The sequence-wise balance loss (equations 17-20) of one sequence of `length` tokens:
//   coefficient * sum_i f_i P_i,  f_i = experts / (active length) * selections of i,
//   P_i = mean over tokens of s_i / sum_j s_j.
struct BalanceLoss {
  int64_t length = 0;      // tokens per sequence; divides tokens
  double coefficient = 0;  // alpha times the weight of a sequence in the batch's mean
};
double balance_loss(const GateShape& s,
                    const BalanceLoss& loss,
                    const float* scores,
                    const int32_t* chosen);

// d_logits: [tokens, experts] of the weights' gradient d_weights: [tokens, active] and of the
// balance loss. The choice itself has no gradient.
void gate_backward(const GateShape& s,
                   const BalanceLoss& loss,
                   const float* d_weights,
                   const float* scores,
                   const int32_t* chosen,
                   float* d_logits);

// The reference takes `chosen` from the caller when `given` is set, so that finite differences do
// not jump between choices.
void gate_reference(const GateShape& s,
                    const double* logits,
                    const double* bias,
                    bool given,
                    double* scores,
                    int32_t* chosen,
                    double* weights);

}  // namespace rehearse::kernels
