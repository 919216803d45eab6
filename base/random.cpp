#include "base/random.h"

namespace rehearse {

const std::vector<float>& gumbel_table() {
  static const std::vector<float> table = [] {
    std::vector<float> t(1 << 16);
    for (size_t i = 0; i < t.size(); ++i) {
      const double u = (static_cast<double>(i) + 0.5) / static_cast<double>(t.size());
      t[i] = static_cast<float>(-std::log(-std::log(u)));
    }
    return t;
  }();
  return table;
}

}  // namespace rehearse
