#include "plan/layout.h"

namespace rehearse {

std::string_view name_of(ScheduleKind kind) {
  switch (kind) {
    case ScheduleKind::k1F1B:
      return "1f1b";
    case ScheduleKind::kInterleaved:
      return "interleaved-1f1b";
    case ScheduleKind::kZB1P:
      return "zb1p";
    case ScheduleKind::kDualPipe:
      return "dualpipe";
    case ScheduleKind::kDualPipeV:
      return "dualpipev";
  }
  return "?";
}

std::vector<int64_t> even_layers(int64_t layers, int64_t stages) {
  std::vector<int64_t> counts(static_cast<size_t>(stages), layers / stages);
  const int64_t longer = layers % stages;
  const int64_t first = (stages - longer + 1) / 2;
  for (int64_t i = 0; i < longer; ++i) ++counts[static_cast<size_t>(first + i)];
  return counts;
}

}  // namespace rehearse
