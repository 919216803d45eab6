#include "plan/routing.h"

namespace rehearse {

std::vector<int64_t> balanced_expert_rows(const Plan& plan) {
  const Architecture& a = plan.model.architecture;
  if (a.experts == 0) return {};
  const int64_t rows = plan.layout.ep * plan.micro_batch_tokens() * a.active_experts;
  std::vector<int64_t> counts(static_cast<size_t>(a.experts), rows / a.experts);
  for (int64_t e = 0; e < rows % a.experts; ++e) ++counts[static_cast<size_t>(e)];
  return counts;
}

}  // namespace rehearse
