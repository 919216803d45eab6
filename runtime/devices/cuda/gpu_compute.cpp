#include "runtime/devices/cuda/gpu_compute.h"

#include <algorithm>
#include <cmath>

#include "base/integers.h"
#include "plan/routing/counts.h"

namespace rehearse {

using kernels::ConstValues;
using kernels::Values;

namespace {

ConstValues on_card(const ConstArray& x) {
  if (x.data == nullptr) return {};
  return x.extent.type == DType::kBf16 ? ConstValues(x.bf16()) : ConstValues(x.fp32());
}
Values on_card(const Array& x) {
  if (x.data == nullptr) return {};
  return x.extent.type == DType::kBf16 ? Values(x.bf16()) : Values(x.fp32());
}
Values on_card(Tensor& x) {
  return on_card(x.array());
}

// From an element on.
ConstValues behind(const ConstValues& v, int64_t elements) {
  if (v.bf16 != nullptr) return v.bf16 + elements;
  return v.fp32 == nullptr ? v : ConstValues(v.fp32 + elements);
}

kernels::RowCounts counts_of(const ExpertRows& rows) {
  return {rows.expert_rows.int32(), static_cast<int>(rows.expert_rows.extent.size())};
}
kernels::RowCounts counts_of(const Compute::Weighted* rows) {
  return rows == nullptr ? kernels::RowCounts() : counts_of(rows->rows);
}
const float* given_weights(const Compute::Weighted* rows) {
  return rows == nullptr ? nullptr : rows->weights.fp32();
}

}  // namespace

GpuRopeTable::GpuRopeTable(Gpu& gpu, const kernels::RopeTable& table)
    : length(table.length), width(table.width), memory_(gpu.memory()) {
  const size_t bytes = table.cosine.size() * sizeof(float);
  cosine = reinterpret_cast<float*>(memory_.allocate(bytes));
  sine = reinterpret_cast<float*>(memory_.allocate(bytes));
  memory_.write(table.cosine.data(), cosine, bytes);
  memory_.write(table.sine.data(), sine, bytes);
}

GpuRopeTable::~GpuRopeTable() {
  memory_.release(reinterpret_cast<std::byte*>(cosine));
  memory_.release(reinterpret_cast<std::byte*>(sine));
}

// --- memory

Tensor GpuCompute::make(int64_t rows, int64_t columns, DType type) const {
  return {pool_, rows, columns, type};
}

Tensor GpuCompute::zeros(int64_t rows, int64_t columns) const {
  Tensor x = wide(rows, columns);
  clear(x);
  return x;
}

Tensor GpuCompute::in_type(Tensor x, const Encoding& type, const ExpertRows* rows) const {
  if (x.type() == type.type) return x;
  Tensor y = make(x.rows(), x.columns(), type.type);
  encode(x, y, type.scales, rows);
  return y;
}

void GpuCompute::copy(const ConstArray& from, const Array& to) const {
  CHECK(from.extent == to.extent) << to_string(from.extent) << " to " << to_string(to.extent);
  gpu_.copy(from.data, to.data, from.extent.buffer_bytes());
}

void GpuCompute::encode(const ConstArray& from,
                        const Array& to,
                        const kernels::ScaleRule& rule) const {
  encode(from, to, rule, nullptr);
}

void GpuCompute::encode(const ConstArray& from,
                        const Array& to,
                        const kernels::ScaleRule& rule,
                        const ExpertRows* rows) const {
  using kernels::CodeFormat;
  const auto format_of = [](DType type) {
    return type == DType::kFp8Blocks ? CodeFormat::kBlocks
           : type == DType::kE5m6    ? CodeFormat::kE5m6
                                     : CodeFormat::kTiles;
  };
  const kernels::RowCounts counts = rows == nullptr ? kernels::RowCounts() : counts_of(*rows);
  const Extent& e = from.extent;
  if (!is_scaled(to.extent.type)) {
    start(k_.decode,
          {.format = format_of(e.type),
           .codes = is_scaled(e.type) ? from.codes() : nullptr,
           .x = is_scaled(e.type) ? ConstValues() : on_card(from),
           .scales = from.scales,
           .scale_stride = from.scale_stride,
           .y = on_card(to),
           .rows = e.rows,
           .columns = e.columns,
           .counts = counts});
    return;
  }
  const Readable values = readable(from, rows);
  start(k_.encode,
        {.format = format_of(to.extent.type),
         .x = on_card(values),
         .codes = to.codes(),
         .scales = to.scales,
         .scale_stride = to.scale_stride,
         .rows = e.rows,
         .columns = e.columns,
         .power_of_two = rule.power_of_two,
         .shared = to.extent.type == DType::kFp8 && rule.rows > 1,
         .counts = counts});
}

Tensor GpuCompute::widened(const ConstArray& x, const ExpertRows* rows) const {
  Tensor y = wide(x.extent.rows, x.extent.columns);
  encode(x, y, {}, rows);
  return y;
}

GpuCompute::Readable GpuCompute::readable(const ConstArray& x, const ExpertRows* rows) const {
  if (x.data == nullptr || !is_scaled(x.extent.type)) return Readable(x);
  return Readable(widened(x, rows));
}

GpuCompute::Readable GpuCompute::along_tokens(const ConstArray& x,
                                              bool fp8,
                                              const kernels::ScaleRule& rule,
                                              const ExpertRows* rows) const {
  if (!fp8) return Readable(x);
  Tensor values = widened(x, rows);
  start(k_.round_columns,
        {.x = values.data(),
         .rows = x.extent.rows,
         .columns = x.extent.columns,
         .power_of_two = rule.power_of_two,
         .shared = rule.rows > 1,
         .counts = rows == nullptr ? kernels::RowCounts() : counts_of(*rows)});
  return Readable(std::move(values));
}

GpuCompute::Matrices GpuCompute::matrices(std::span<const ConstArray> w) const {
  Matrices m;
  std::vector<ConstArray> views;
  for (const ConstArray& one : w) {
    if (is_scaled(one.extent.type)) {
      m.own.push_back(widened(one, nullptr));
      views.push_back(m.own.back());
    } else {
      views.push_back(one);
    }
  }
  m.list = pointers(views);
  m.narrow = views.front().extent.type == DType::kBf16;
  return m;
}

void GpuCompute::clear(const Array& x) const {
  gpu_.clear(x.data, x.extent.buffer_bytes());
}

Tensor GpuCompute::from_host(std::span<const int32_t> from) const {
  Tensor x = make(std::ssize(from), 1, DType::kInt32);
  gpu_.upload(from.data(), x.array().data, from.size_bytes());
  return x;
}

void GpuCompute::to_host(const ConstArray& x, void* to) const {
  gpu_.download(x.data, to, x.extent.buffer_bytes());
}

Tensor GpuCompute::uploaded(const void* from, size_t bytes) const {
  constexpr size_t kWord = sizeof(int64_t);
  Tensor x = make(static_cast<int64_t>((bytes + kWord - 1) / kWord), 1, DType::kInt64);
  gpu_.upload(from, x.array().data, bytes);
  return x;
}

Tensor GpuCompute::pointers(std::span<const ConstArray> to) const {
  std::vector<const void*> all;
  for (const ConstArray& a : to) all.push_back(a.data);
  return uploaded(all.data(), all.size() * sizeof(void*));
}

// --- products

Tensor GpuCompute::product(const ConstArray& x,
                           const ConstArray& w,
                           const Encoding& type,
                           const ConstArray& addend) const {
  const int64_t k = w.extent.columns;
  const Readable from = readable(x), by = readable(w), more = readable(addend);
  Tensor y = written(x.extent.rows, w.extent.rows, type);
  start(k_.dense_product,
        {.a = {on_card(from), k, 1},
         .b = {on_card(by), k, 1},
         .m = y.rows(),
         .n = y.columns(),
         .k = k,
         .c = on_card(y),
         .addend = on_card(more)});
  return in_type(std::move(y), type);
}

Tensor GpuCompute::product_input(const ConstArray& dy, const ConstArray& w) const {
  const Readable from = readable(dy), by = readable(w);
  Tensor dx = wide(dy.extent.rows, w.extent.columns);
  start(k_.dense_product,
        {.a = {on_card(from), w.extent.rows, 1},
         .b = {on_card(by), 1, w.extent.columns},
         .m = dx.rows(),
         .n = dx.columns(),
         .k = w.extent.rows,
         .c = on_card(dx)});
  return dx;
}

Tensor GpuCompute::add_product_input(const ConstArray& dy, const ConstArray& w, Tensor dx) const {
  dx = in_type(std::move(dx), DType::kFp32);
  const Readable from = readable(dy), by = readable(w);
  start(k_.dense_product,
        {.a = {on_card(from), w.extent.rows, 1},
         .b = {on_card(by), 1, w.extent.columns},
         .m = dx.rows(),
         .n = dx.columns(),
         .k = w.extent.rows,
         .c = on_card(dx),
         .add = true});
  return dx;
}

void GpuCompute::product_weight(const ConstArray& dy,
                                const ConstArray& x,
                                const AlongTokens& rounded,
                                const Array& dw) const {
  const int64_t n = dy.extent.columns;
  const int64_t k = x.extent.columns;
  const Readable left = along_tokens(dy, rounded.fp8, rounded.dy, nullptr),
                 right = along_tokens(x, rounded.fp8, rounded.x, nullptr);
  start(k_.dense_product,
        {.a = {on_card(left), 1, n},
         .b = {on_card(right), 1, k},
         .m = n,
         .n = k,
         .k = dy.extent.rows,
         .c = on_card(dw),
         .add = true});
}

Tensor GpuCompute::grouped_product(const ConstArray& x,
                                   std::span<const ConstArray> w,
                                   const ExpertRows& rows,
                                   const Encoding& type) const {
  const Extent& of = w.front().extent;
  Tensor y = written(x.extent.rows, of.rows, type);
  const Readable from = readable(x, &rows);
  const Matrices by = matrices(w);
  start(
      k_.product,
      {.a = {on_card(from), of.columns, 1},
       .b = {{}, of.columns, 1},
       .m = y.rows(),
       .n = of.rows,
       .k = of.columns,
       .c = on_card(y),
       .counts = counts_of(rows),
       .b_fp32_of = by.narrow ? nullptr : static_cast<const float* const*>(by.pointers()),
       .b_bf16_of = by.narrow ? static_cast<const kernels::Bf16* const*>(by.pointers()) : nullptr});
  return in_type(std::move(y), type, &rows);
}

Tensor GpuCompute::grouped_product_input(const ConstArray& dy,
                                         std::span<const ConstArray> w,
                                         const ExpertRows& rows,
                                         const Encoding& type) const {
  const Extent& of = w.front().extent;
  Tensor dx = written(dy.extent.rows, of.columns, type);
  const Readable from = readable(dy, &rows);
  const Matrices by = matrices(w);
  start(
      k_.product,
      {.a = {on_card(from), of.rows, 1},
       .b = {{}, 1, of.columns},
       .m = dx.rows(),
       .n = of.columns,
       .k = of.rows,
       .c = on_card(dx),
       .counts = counts_of(rows),
       .b_fp32_of = by.narrow ? nullptr : static_cast<const float* const*>(by.pointers()),
       .b_bf16_of = by.narrow ? static_cast<const kernels::Bf16* const*>(by.pointers()) : nullptr});
  return in_type(std::move(dx), type, &rows);
}

void GpuCompute::grouped_product_weight(const ConstArray& dy,
                                        const ConstArray& x,
                                        const AlongTokens& rounded,
                                        const ExpertRows& rows,
                                        std::span<const Array> dw) const {
  const Readable left = along_tokens(dy, rounded.fp8, rounded.dy, &rows),
                 right = along_tokens(x, rounded.fp8, rounded.x, &rows);
  const std::vector<ConstArray> to(dw.begin(), dw.end());
  const Tensor list = pointers(to);
  const int64_t n = dy.extent.columns;
  const int64_t k = x.extent.columns;
  start(k_.product,
        {.a = {on_card(left), 1, n},
         .b = {on_card(right), 1, k},
         .m = n,
         .n = k,
         .k = dy.extent.rows,
         .add = true,
         .counts = counts_of(rows),
         .c_of = static_cast<float* const*>(list.array().data)});
}

// --- norms

Normed GpuCompute::norm(const ConstArray& x,
                        const ConstArray& gain,
                        double eps,
                        const Encoding& type) const {
  const int64_t width = gain.extent.size();
  Normed n{.y = written(x.extent.rows, width, type), .inverse = wide(x.extent.rows, 1)};
  start(k_.rmsnorm,
        {.x = on_card(x),
         .gain = on_card(gain),
         .y = on_card(n.y),
         .inverse = n.inverse.data(),
         .rows = x.extent.rows,
         .width = width,
         .x_stride = x.extent.columns,
         .eps = static_cast<float>(eps)});
  n.y = in_type(std::move(n.y), type);
  return n;
}

Tensor GpuCompute::norm_input(const NormBack& n, double eps) const {
  Tensor dx = wide(n.x.extent.rows, n.x.extent.columns);
  norm_input_into(n, eps, dx);
  return dx;
}

void GpuCompute::norm_input_into(const NormBack& n, double, const Array& dx) const {
  const int64_t width = n.gain.extent.size();
  Tensor partial = wide(kernels::rmsnorm_chunks(n.x.extent.rows), width);
  start(k_.rmsnorm_backward,
        {.dy = on_card(n.dy),
         .x = on_card(n.x),
         .gain = on_card(n.gain),
         .inverse = n.inverse.fp32(),
         .addend = on_card(n.addend),
         .dx = on_card(dx),
         .partial = partial.data(),
         .d_gain = n.d_gain.fp32(),
         .rows = n.x.extent.rows,
         .width = width,
         .x_stride = n.x.extent.columns});
}

// --- attention

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

// --- the router

Gated GpuCompute::gate(const kernels::GateShape& s, Tensor logits, const ConstArray& bias) const {
  Gated g{.scores = wide(s.tokens, s.experts),
          .weights = wide(s.tokens, s.active),
          .chosen = make(s.tokens, s.active, DType::kInt32)};
  start(k_.gate,
        {.shape = s,
         .logits = logits.data(),
         .bias = bias.data == nullptr ? nullptr : bias.fp32(),
         .scores = g.scores.data(),
         .chosen = g.chosen.int32(),
         .weights = g.weights.data()});
  return g;
}

void GpuCompute::force_balanced(const Architecture& model,
                                const kernels::GateShape& s,
                                const ConstArray& scores,
                                const Array& weights,
                                const Array& chosen) const {
  std::vector<int32_t> all(static_cast<size_t>(s.tokens * s.active));
  for (int64_t t = 0; t < s.tokens; ++t) {
    balanced_choice(
        model,
        t,
        std::span(all).subspan(static_cast<size_t>(t * s.active), static_cast<size_t>(s.active)));
  }
  gpu_.upload(all.data(), chosen.data, all.size() * sizeof(int32_t));
  start(k_.weights_of_chosen,
        {.scores = scores.fp32(),
         .chosen = chosen.int32(),
         .weights = weights.fp32(),
         .tokens = s.tokens,
         .experts = s.experts,
         .active = s.active,
         .scaling = static_cast<float>(s.scaling),
         .normalize = s.normalize});
}

Tensor GpuCompute::gate_input(const kernels::GateShape& s,
                              const kernels::BalanceLoss& loss,
                              const ConstArray& d_weights,
                              const ConstArray& scores,
                              const ConstArray& chosen) const {
  Tensor d_logits = wide(s.tokens, s.experts);
  const bool balanced = loss.coefficient != 0;
  Tensor frequency = wide(balanced ? s.tokens / loss.length : 1, s.experts);
  start(k_.gate_backward,
        {.shape = s,
         .loss = loss,
         .d_weights = d_weights.fp32(),
         .scores = scores.fp32(),
         .chosen = chosen.int32(),
         .frequency = frequency.data(),
         .d_logits = d_logits.data()});
  return d_logits;
}

Tensor GpuCompute::slots(const ConstArray& chosen, const ConstArray& slot_of) const {
  Tensor placed = make(chosen.extent.rows, chosen.extent.columns, DType::kInt32);
  start(k_.look_up,
        {.from = chosen.int32(),
         .table = slot_of.int32(),
         .to = placed.int32(),
         .count = placed.size()});
  return placed;
}

void GpuCompute::count(const ConstArray& chosen, const Array& load) const {
  start(k_.count,
        {.chosen = chosen.int32(),
         .load = load.int64(),
         .count = chosen.extent.size(),
         .experts = load.extent.size()});
}

void GpuCompute::update_bias(const ConstArray& load, double speed, const Array& bias) const {
  start(k_.update_bias,
        {.load = load.int64(), .bias = bias.fp32(), .experts = load.extent.size(), .speed = speed});
}

// --- rows of experts

RowMap GpuCompute::map_rows(const ConstArray& slots,
                            int64_t experts,
                            const Array& overflowed) const {
  const int64_t tokens = slots.extent.rows;
  const int64_t active = slots.extent.columns;
  const int64_t capacity = room_.rows(tokens, active, experts);
  RowMap map{.expert_rows = make(experts, 1, DType::kInt32),
             .token_of_row = make(capacity, 1, DType::kInt32),
             .choice_of_row = make(capacity, 1, DType::kInt32),
             .row_of = make(tokens, active, DType::kInt32)};
  Tensor starts = make(kernels::map_chunks(tokens) + 1, experts, DType::kInt32);
  start(k_.map_rows,
        {.slots = slots.int32(),
         .expert_rows = map.expert_rows.int32(),
         .token_of_row = map.token_of_row.int32(),
         .choice_of_row = map.choice_of_row.int32(),
         .row_of = map.row_of.int32(),
         .overflowed = overflowed.int64(),
         .starts = starts.int32(),
         .tokens = tokens,
         .active = active,
         .experts = experts,
         .capacity = capacity});
  return map;
}

Tensor GpuCompute::permute(const ExpertRows& rows, const ConstArray& x) const {
  Tensor y = make(rows.capacity(), x.extent.columns, x.extent.type);
  kernels::GpuPermute call{.token_of_row = rows.token_of_row.int32(),
                           .counts = counts_of(rows),
                           .width = x.extent.columns,
                           .capacity = rows.capacity()};
  if (x.extent.type == DType::kFp8) {
    const Array to = y;
    call.x_codes = x.codes();
    call.row_codes = to.codes();
    call.x_scales = x.scales;
    call.row_scales = to.scales;
    call.x_scale_stride = x.scale_stride;
    call.row_scale_stride = to.scale_stride;
  } else {
    call.x = on_card(x);
    call.rows = on_card(y);
  }
  start(k_.permute, call);
  return y;
}

Tensor GpuCompute::unpermute(const ExpertRows& rows,
                             const ConstArray& x,
                             const ConstArray& first,
                             const ConstArray& second,
                             const Encoding& type) const {
  Tensor y = make(rows.tokens(), x.extent.columns, type.type);
  start(k_.unpermute,
        {.row_of = rows.row_of.int32(),
         .rows = on_card(x),
         .first = on_card(first),
         .second = on_card(second),
         .y = on_card(y),
         .tokens = rows.tokens(),
         .active = rows.active(),
         .width = x.extent.columns});
  return y;
}

Tensor GpuCompute::of_rows(const ExpertRows& rows, const ConstArray& choices) const {
  Tensor y = wide(rows.capacity(), 1);
  start(k_.of_rows,
        {.token_of_row = rows.token_of_row.int32(),
         .choice_of_row = rows.choice_of_row.int32(),
         .counts = counts_of(rows),
         .choices = choices.fp32(),
         .rows = y.data(),
         .active = choices.extent.columns,
         .capacity = rows.capacity()});
  return y;
}

Tensor GpuCompute::of_choices(const ExpertRows& rows, const ConstArray& x) const {
  Tensor y = wide(rows.tokens(), rows.active());
  start(k_.of_choices,
        {.row_of = rows.row_of.int32(),
         .rows = x.fp32(),
         .to = y.data(),
         .tokens = rows.tokens(),
         .active = rows.active(),
         .to_row = rows.active()});
  return y;
}

Tensor GpuCompute::beside(const ExpertRows& rows, const ConstArray& x, const ConstArray& y) const {
  const int64_t width = x.extent.columns;
  Tensor both = wide(x.extent.rows, width + rows.active());
  put_columns(x, 0, both);
  start(k_.of_choices,
        {.row_of = rows.row_of.int32(),
         .rows = y.fp32(),
         .to = both.data() + width,
         .tokens = rows.tokens(),
         .active = rows.active(),
         .to_row = both.columns()});
  return both;
}

Tensor GpuCompute::columns(const ConstArray& x, Columns c) const {
  Tensor part = wide(x.extent.rows, c.count);
  move({.from = x.fp32() + c.first,
        .to = part.data(),
        .rows = x.extent.rows,
        .width = c.count,
        .from_row = x.extent.columns,
        .to_row = c.count});
  return part;
}

void GpuCompute::put_columns(const ConstArray& x, int64_t first, const Array& into) const {
  move({.from = x.fp32(),
        .to = into.fp32() + first,
        .rows = x.extent.rows,
        .width = x.extent.columns,
        .from_row = x.extent.columns,
        .to_row = into.extent.columns});
}

// --- elementwise

Tensor GpuCompute::swiglu(const ConstArray& gate_up,
                          const Weighted* rows,
                          const Encoding& type) const {
  const ExpertRows* const of = rows == nullptr ? nullptr : &rows->rows;
  const Readable from = readable(gate_up, of);
  Tensor y = written(gate_up.extent.rows, gate_up.extent.columns / 2, type);
  start(k_.swiglu,
        {.gate_up = on_card(from),
         .row_weights = given_weights(rows),
         .y = on_card(y),
         .rows = y.rows(),
         .width = y.columns(),
         .counts = counts_of(rows)});
  return in_type(std::move(y), type, of);
}

SwigluBack GpuCompute::swiglu_input(const ConstArray& d_activated,
                                    const ConstArray& gate_up,
                                    const Weighted* rows,
                                    const Encoding& type) const {
  const ExpertRows* const of = rows == nullptr ? nullptr : &rows->rows;
  const Readable from = readable(gate_up, of);
  SwigluBack d{.d_gate_up = written(gate_up.extent.rows, gate_up.extent.columns, type),
               .d_row_weights = rows == nullptr ? Tensor() : wide(gate_up.extent.rows, 1)};
  start(k_.swiglu_backward,
        {.dy = on_card(d_activated),
         .gate_up = on_card(from),
         .row_weights = given_weights(rows),
         .d_gate_up = on_card(d.d_gate_up),
         .d_row_weights = rows == nullptr ? nullptr : d.d_row_weights.data(),
         .rows = gate_up.extent.rows,
         .width = gate_up.extent.columns / 2,
         .counts = counts_of(rows)});
  d.d_gate_up = in_type(std::move(d.d_gate_up), type, of);
  return d;
}

Tensor GpuCompute::sum(Tensor x,
                       std::initializer_list<ConstArray> addends,
                       const Encoding& type) const {
  CHECK(addends.size() <= 2) << addends.size() << " addends";
  Tensor y = written(x.rows(), x.columns(), type);
  ConstValues more[2];
  std::transform(
      addends.begin(), addends.end(), more, [](const ConstArray& a) { return on_card(a); });
  start(k_.sum,
        {.x = on_card(ConstArray(x)),
         .first = more[0],
         .second = more[1],
         .y = on_card(y),
         .elements = x.size()});
  return in_type(std::move(y), type);
}

void GpuCompute::accumulate(const ConstArray& x, const Array& gradient) const {
  start(k_.sum,
        {.x = on_card(ConstArray(gradient)),
         .first = on_card(x),
         .y = on_card(gradient),
         .elements = gradient.extent.size()});
}

void GpuCompute::count_bad(const ConstArray& x, const Array& count) const {
  Tensor partial = wide(kernels::kBadBlocks, 1);
  start(k_.count_bad,
        {.x = on_card(x),
         .elements = x.extent.size(),
         .count = count.int64(),
         .partial = partial.data()});
}

// --- the model's ends

Tensor GpuCompute::embedding(const ConstArray& tokens,
                             const ConstArray& table,
                             const Encoding& type) const {
  Tensor x = make(tokens.extent.size(), table.extent.columns, type.type);
  start(k_.embedding,
        {.tokens = tokens.int32(),
         .table = on_card(table),
         .x = on_card(x),
         .count = x.rows(),
         .width = x.columns()});
  return x;
}

void GpuCompute::embedding_weight(const ConstArray& tokens,
                                  const ConstArray& dx,
                                  const Array& d_table) const {
  start(k_.embedding_backward,
        {.tokens = tokens.int32(),
         .dx = on_card(dx),
         .d_table = d_table.fp32(),
         .count = tokens.extent.size(),
         .width = dx.extent.columns});
}

Losses GpuCompute::cross_entropy(const ConstArray& targets,
                                 const ConstArray& logits,
                                 const Array& sum) const {
  const int64_t tokens = targets.extent.size();
  Losses l{.losses = wide(tokens, 1), .lse = wide(tokens, 1)};
  start(k_.cross_entropy,
        {.targets = targets.int32(),
         .logits = logits.fp32(),
         .losses = l.losses.data(),
         .lse = l.lse.data(),
         .tokens = tokens,
         .vocabulary = logits.extent.columns});
  start(k_.total, {.fp32 = l.losses.data(), .elements = tokens, .sum = sum.fp64()});
  return l;
}

void GpuCompute::cross_entropy_input(const ConstArray& targets,
                                     double scale,
                                     const ConstArray& lse,
                                     const Array& logits) const {
  start(k_.cross_entropy_backward,
        {.targets = targets.int32(),
         .lse = lse.fp32(),
         .logits = logits.fp32(),
         .scale = static_cast<float>(scale),
         .tokens = targets.extent.size(),
         .vocabulary = logits.extent.columns});
}

// --- the step's end

void GpuCompute::step_status(std::span<const ConstArray> gradients,
                             const ConstArray& overflowed,
                             std::span<const ConstArray> losses,
                             const Array& status) const {
  using Of = kernels::GpuTotal::Of;
  clear(status);
  double* const s = status.fp64();
  for (const ConstArray& g : gradients) {
    start(k_.total,
          {.of = Of::kSquares,
           .fp32 = g.fp32(),
           .elements = g.extent.size(),
           .sum = s + StepStatus::kSquares,
           .add = true});
  }
  start(k_.total, {.int64 = overflowed.int64(), .elements = 1, .sum = s + StepStatus::kOverflow});
  for (const ConstArray& l : losses) {
    if (l.extent.size() == 0) continue;
    start(k_.total,
          {.of = Of::kNotFinite,
           .fp64 = l.fp64(),
           .elements = l.extent.size(),
           .sum = s + StepStatus::kBadLosses,
           .add = true});
  }
}

void GpuCompute::adamw(const AdamwCall& call) const {
  std::vector<kernels::GpuAdamW::Segment> segments;
  for (const AdamwCall::Segment& s : call.segments) {
    segments.push_back(
        {s.begin, s.end, static_cast<float>(1 - call.settings.learning_rate * s.weight_decay)});
  }
  if (segments.empty()) return;
  const Tensor list = uploaded(segments.data(), segments.size() * sizeof(segments.front()));
  start(k_.adamw,
        {.settings = call.settings,
         .clip = call.clip,
         .status = call.status.fp64(),
         .status_size = StepStatus::kSize,
         .segments = static_cast<const kernels::GpuAdamW::Segment*>(list.array().data),
         .segment_count = std::ssize(segments),
         .gradients = call.gradients.fp32(),
         .weights = call.weights.fp32(),
         .m = on_card(call.m),
         .v = on_card(call.v),
         .rounded = on_card(call.rounded),
         .average = call.average.data == nullptr ? nullptr : call.average.fp32(),
         .average_decay = static_cast<float>(call.ema),
         .elements = segments.back().end});
}

}  // namespace rehearse
