#include "kernels/attention/attention.h"

#include "kernels/testing/check.h"

namespace rehearse::kernels {
namespace {

TEST(Attention, ForwardAndBackward) {
  Inputs inputs;
  for (const AttentionShape& s : std::vector<AttentionShape>{{1, 1, 1, 2, 2, 3, 2},
                                                             {2, 5, 2, 4, 2, 3, 7},
                                                             {1, 70, 2, 8, 4, 8, 20},
                                                             {2, 64, 1, 128, 64, 128, 576},
                                                             {2, 9, 6, 8, 0, 5, 0, 1, 2},
                                                             {1, 70, 4, 16, 0, 16, 0, 1, 1}}) {
    const int64_t t = s.tokens();
    const auto q = inputs.normal(t * s.heads * s.qk());
    const auto kv = inputs.normal(t * s.kv_width());
    const auto k_rope = inputs.normal(t * s.k_rope_stride);
    const auto d_o = inputs.normal(t * s.heads * s.v_head);
    const auto reference = [&](const std::vector<double>& q_,
                               const std::vector<double>& kv_,
                               const std::vector<double>& k_rope_) {
      std::vector<double> o(d_o.size());
      attention_reference(s, q_.data(), kv_.data(), k_rope_.data(), o.data());
      return o;
    };
    Guarded o(t * s.heads * s.v_head), lse(t * s.heads);
    attention(s, floats(q).data(), floats(kv).data(), floats(k_rope).data(), o.data(), lse.data());
    // Scores of size about 3 are rounded at 2^-24, so probabilities err by a few 1e-7.
    expect_close(o.data(), reference(q, kv, k_rope), 1e-5, "o");

    Guarded dq(t * s.heads * s.qk()), dkv(t * s.kv_width()), dk_rope(t * s.k_rope_stride, 0);
    attention_backward(s,
                       floats(d_o).data(),
                       floats(q).data(),
                       floats(kv).data(),
                       floats(k_rope).data(),
                       o.data(),
                       lse.data(),
                       {.dq = dq.data(), .dkv = dkv.data(), .dk_rope = dk_rope.data()});
    expect_gradient(
        inputs,
        [&](const auto& v) { return reference(q, v, k_rope); },
        kv,
        d_o,
        dkv.data(),
        1e-5,
        "dkv");
    if (s.length == 1) continue;  // one key: its probability is 1 whatever q is
    expect_gradient(
        inputs,
        [&](const auto& v) { return reference(v, kv, k_rope); },
        q,
        d_o,
        dq.data(),
        1e-5,
        "dq");
    if (s.qk_rope == 0) continue;
    expect_gradient(
        inputs,
        [&](const auto& v) { return reference(q, kv, v); },
        k_rope,
        d_o,
        dk_rope.data(),
        1e-5,
        "dk_rope");
  }
}

}  // namespace
}  // namespace rehearse::kernels
