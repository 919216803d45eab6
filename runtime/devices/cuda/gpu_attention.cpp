// A card's attention, and what lies between its products.

#include <algorithm>

#include "runtime/devices/cuda/gpu_values.h"

namespace rehearse {

Tensor GpuCompute::turned(Tensor x,
                          const Rotation& r,
                          kernels::Turn turn,
                          const Encoding& type) const {
  Tensor y = written(x.rows(), x.columns(), type);
  start(k_.rope,
        {.x = on_card(ConstArray(x)),
         .y = on_card(y),
         .cosine = rope_.cosine,
         .sine = rope_.sine,
         .rows = x.rows(),
         .columns = x.columns(),
         .length = rope_.length,
         .heads = r.heads,
         .head_stride = r.stride,
         .first = r.first,
         .width = rope_.width,
         .pairs = r.pairs,
         .turn = turn});
  return in_type(std::move(y), type);
}

Attended GpuCompute::attention(const kernels::AttentionShape& s,
                               const AttentionOperands& a,
                               const Encoding& type) const {
  Attended out{.o = written(s.tokens(), s.heads * s.v_head, type),
               .lse = wide(s.tokens(), s.heads)};
  start(k_.attention,
        {.shape = s,
         .q = on_card(a.q),
         .kv = on_card(a.kv),
         .k_rope = behind(on_card(a.shared), a.shared_first),
         .o = on_card(out.o),
         .lse = out.lse.data()});
  out.o = in_type(std::move(out.o), type);
  return out;
}

AttentionBack GpuCompute::attention_input(const kernels::AttentionShape& s,
                                          const ConstArray& d_o,
                                          const AttentionOperands& a,
                                          const ConstArray& o,
                                          const ConstArray& lse) const {
  AttentionBack d{.dq = wide(a.q.extent.rows, a.q.extent.columns),
                  .dkv = wide(a.kv.extent.rows, a.kv.extent.columns),
                  .d_shared = {}};
  const bool shared = a.shared.data != nullptr;
  // What is not the key's is copied on before it is made.
  if (shared) d.d_shared = zeros(a.shared.extent.rows, a.shared.extent.columns);
  const Readable out = readable(o);
  Tensor delta = wide(s.tokens(), s.heads);
  Tensor of_heads = wide(s.tokens(), std::max<int64_t>(1, s.heads * s.qk_rope));
  start(k_.attention_backward,
        {.shape = s,
         .q = on_card(a.q),
         .kv = on_card(a.kv),
         .k_rope = behind(on_card(a.shared), a.shared_first),
         .o = on_card(out),
         .d_o = on_card(d_o),
         .lse = lse.fp32(),
         .dq = d.dq.data(),
         .dkv = d.dkv.data(),
         .dk_rope = shared ? d.d_shared.data() + a.shared_first : nullptr,
         .delta = delta.data(),
         .rope_of_heads = of_heads.data()});
  return d;
}

Split GpuCompute::split_heads(const HeadsShape& s, Tensor qkv, bool keys_alone) const {
  const int64_t t = qkv.rows();
  Split out{wide(t, s.q()), keys_alone ? wide(t, s.k()) : Tensor(), wide(t, s.kv())};
  const float* const from = qkv.data();
  const int64_t head = s.qk + s.v;
  move({.from = from,
        .to = out.q.data(),
        .rows = t,
        .width = s.q(),
        .from_row = s.all(),
        .to_row = s.q()});
  move({.from = from + s.q(),
        .to = keys_alone ? out.k.data() : out.kv.data(),
        .rows = t,
        .parts = s.kv_heads,
        .width = s.qk,
        .from_row = s.all(),
        .from_part = s.qk,
        .to_row = keys_alone ? s.k() : s.kv(),
        .to_part = keys_alone ? s.qk : head});
  move({.from = from + s.q() + s.k(),
        .to = out.kv.data() + s.qk,
        .rows = t,
        .parts = s.kv_heads,
        .width = s.v,
        .from_row = s.all(),
        .from_part = s.v,
        .to_row = s.kv(),
        .to_part = head});
  return out;
}

Tensor GpuCompute::join_heads(const HeadsShape& s, Tensor q, Tensor kv) const {
  const int64_t t = q.rows();
  Tensor qkv = wide(t, s.all());
  const int64_t head = s.qk + s.v;
  move({.from = q.data(),
        .to = qkv.data(),
        .rows = t,
        .width = s.q(),
        .from_row = s.q(),
        .to_row = s.all()});
  move({.from = kv.data(),
        .to = qkv.data() + s.q(),
        .rows = t,
        .parts = s.kv_heads,
        .width = s.qk,
        .from_row = s.kv(),
        .from_part = head,
        .to_row = s.all(),
        .to_part = s.qk});
  move({.from = kv.data() + s.qk,
        .to = qkv.data() + s.q() + s.k(),
        .rows = t,
        .parts = s.kv_heads,
        .width = s.v,
        .from_row = s.kv(),
        .from_part = head,
        .to_row = s.all(),
        .to_part = s.v});
  return qkv;
}

Tensor GpuCompute::keys_of(const HeadsShape& s, const ConstArray& kv) const {
  Tensor k = wide(kv.extent.rows, s.k());
  move({.from = kv.fp32(),
        .to = k.data(),
        .rows = kv.extent.rows,
        .parts = s.kv_heads,
        .width = s.qk,
        .from_row = s.kv(),
        .from_part = s.qk + s.v,
        .to_row = s.k(),
        .to_part = s.qk});
  return k;
}

void GpuCompute::put_keys(const HeadsShape& s, const ConstArray& k, const Array& kv) const {
  move({.from = k.fp32(),
        .to = kv.fp32(),
        .rows = kv.extent.rows,
        .parts = s.kv_heads,
        .width = s.qk,
        .from_row = s.k(),
        .from_part = s.qk,
        .to_row = s.kv(),
        .to_part = s.qk + s.v});
}

}  // namespace rehearse
