#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/attention/attention.h"

namespace rehearse::kernels {

void attention_reference(
    const AttentionShape& s, const double* q, const double* kv, const double* k_rope, double* o) {
  const int64_t kv_width = s.qk_nope + s.v_head;
  const auto row = [&](int64_t token, int64_t h) {
    return kv + (token * s.keys() + h * s.keys() / s.heads) * kv_width;
  };
  for (int64_t token = 0; token < s.tokens(); ++token) {
    const int64_t first = token / s.length * s.length;
    for (int64_t h = 0; h < s.heads; ++h) {
      const double* query = q + (token * s.heads + h) * s.qk();
      std::vector<double> p;
      double most = -INFINITY;
      for (int64_t u = first; u <= token; ++u) {
        double dot = 0;
        for (int64_t j = 0; j < s.qk_nope; ++j) {
          dot += query[j] * row(u, h)[j];
        }
        for (int64_t j = 0; j < s.qk_rope; ++j) {
          dot += query[s.qk_nope + j] * k_rope[u * s.k_rope_stride + j];
        }
        p.push_back(dot / (std::sqrt(static_cast<double>(s.qk())) / s.softmax_factor));
        most = std::max(most, p.back());
      }
      double sum = 0;
      for (double& x : p) sum += x = std::exp(x - most);
      for (int64_t j = 0; j < s.v_head; ++j) {
        double value = 0;
        for (int64_t u = first; u <= token; ++u) {
          value += p[static_cast<size_t>(u - first)] / sum * row(u, h)[s.qk_nope + j];
        }
        o[(token * s.heads + h) * s.v_head + j] = value;
      }
    }
  }
}

}  // namespace rehearse::kernels
