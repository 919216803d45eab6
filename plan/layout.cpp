#include "plan/layout.h"

#include <fmt/format.h>

namespace rehearse {

std::string ranks_text(const Layout& l) {
  std::string text = fmt::format("PP{} DP{} EP{}", l.pp, l.dp, l.ep);
  if (l.tp > 1) text += fmt::format(" TP{}", l.tp);
  if (l.cp > 1) text += fmt::format(" CP{}", l.cp);
  if (l.etp > 1) text += fmt::format(" ETP{}", l.etp);
  if (l.rank_order != RankOrder::kDataFirst) text += " pp before dp";
  return text;
}

std::vector<int64_t> even_layers(int64_t layers, int64_t stages) {
  std::vector<int64_t> counts(static_cast<size_t>(stages), layers / stages);
  const int64_t longer = layers % stages;
  const int64_t first = (stages - longer + 1) / 2;
  for (int64_t i = 0; i < longer; ++i) ++counts[static_cast<size_t>(first + i)];
  return counts;
}

}  // namespace rehearse
