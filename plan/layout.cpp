#include "plan/layout.h"

namespace rehearse {

std::vector<int64_t> even_layers(int64_t layers, int64_t stages) {
  std::vector<int64_t> counts(static_cast<size_t>(stages), layers / stages);
  const int64_t longer = layers % stages;
  const int64_t first = (stages - longer + 1) / 2;
  for (int64_t i = 0; i < longer; ++i) ++counts[static_cast<size_t>(first + i)];
  return counts;
}

}  // namespace rehearse
