#include <algorithm>

#include "base/errors.h"
#include "runtime/devices/cuda/gpu_values.h"

namespace rehearse {

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
