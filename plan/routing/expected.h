#pragma once
// Balanced routing on clusters of GPUs, in expectation: every expert is as likely as every other,
// and a token's experts are chosen as the gate does. What skewed routing (sim/expert_load.h) tends
// to when the skew does.

#include "plan/routing/counts.h"

namespace rehearse {

// How likely a token goes to a given node of its EP group, and to a given rank of it: means over
// the group's nodes and ranks.
struct ExpectedReach {
  double node = 1, rank = 1;
};
// Of choices by scores -log(-log u), u uniform: the groups of experts whose two best scores have
// the greatest sums are kept, and the best experts of these chosen (report, equations 12 to 16).
//   no groups, or all kept   every set of experts is as likely: a rank of s of E experts is missed
//                            by k choices with probability C(E - s, k) / C(E, k)
//   else                     the same within each group, for the number of choices that it gets;
//                            these numbers are drawn, 4096 times: of DeepSeek-V3 a standard error
//                            of 0.0025 of 3.973 groups
// Scores are drawn once per process and gate.
ExpectedReach expected_reach(const Architecture& a, const ExpertGroup& group);

// The load of an EP group whose ranks all have the same: each number is the expectation, rounded
// once, but for rows of experts, which add up to what the group's tokens choose: a rank's first
// experts have the rows beyond a whole number.
GroupLoad expected_load(const Plan& plan, const ExpertGroup& group);

}  // namespace rehearse
