#include "cost/conversions.h"

namespace rehearse {
namespace {

// Of FP8: what becomes of one call's operands and results.
class Scaled {
 public:
  Scaled(const Layer& layer,
         int64_t hidden,
         const OpShape& op,
         const RuntimeFormats& f,
         OpCalls& calls)
      : layer_(layer),
        op_(op),
        f_(f),
        calls_(calls),
        forward_(op.pass == Pass::kForward),
        t_(op.sequences * op.length),
        tokens_(t_ * hidden) {}

  // Operands of linears, from codes; results in BF16, or as the operands of the next.
  void around(const KernelCall& call) {
    const auto& s = call.shape;
    switch (call.kernel) {
      case Kernel::kMatmul:
        dequantize(s[0] * s[2] + s[1] * s[2]);
        convert(s[0] * s[1]);
        return;
      case Kernel::kMatmulGradInput:
        dequantize(s[0] * s[1] + s[1] * s[2]);
        convert(s[0] * s[2]);
        return;
      case Kernel::kMatmulGradWeight:
        for (const int64_t width : {s[1], s[2]}) {
          dequantize(s[0] * width);
          add(calls_.work, Kernel::kRoundColumns, {s[0], width});
        }
        return;
      case Kernel::kRmsNorm:
        convert(s[0] * s[1]);
        quantize(s[0] * s[1]);
        return;
      case Kernel::kSwiglu:
        quantize(s[0] * s[1]);
        if (!forward_) {
          cached(2 * s[0] * s[1], Kernel::kDequantize);
        } else {
          convert(2 * s[0] * s[1]);
          cached(2 * s[0] * s[1], Kernel::kQuantize);
        }
        return;
      case Kernel::kSwigluBackward:
        cached(2 * s[0] * s[1], Kernel::kDequantize);
        quantize(2 * s[0] * s[1]);
        return;
      default:
        convert(converted_elements(call));
    }
  }

  // Tensors that are kept in BF16, or cached otherwise, on their way into products and messages.
  void between() {
    const int64_t core = t_ * layer_.core.heads * layer_.core.v;
    switch (op_.kind) {
      case OpKind::kAttn:
        if (forward_) quantize(core);
        if (op_.pass == Pass::kInput) quantize(tokens_);
        if (f_.core.element == 1.5) {
          add(calls_.work, forward_ ? Kernel::kPackE5m6 : Kernel::kUnpackE5m6, {core});
        } else if (f_.core.scaled) {
          add(calls_.work, forward_ ? Kernel::kQuantize : Kernel::kDequantize, {core});
        }
        return;
      case OpKind::kMlp:  // the router's input, for shared experts; and the output's gradient
        if (layer_.shared || (layer_.dense && op_.pass == Pass::kInput)) quantize(tokens_);
        return;
      case OpKind::kDispatch:
        if (forward_ && f_.tokens_sent.scaled) add(calls_.pack, Kernel::kQuantize, {tokens_});
        return;
      case OpKind::kCombine:
        if (!forward_ && f_.gradients_sent.scaled) add(calls_.pack, Kernel::kQuantize, {tokens_});
        return;
      case OpKind::kMtp:
        if (op_.pass == Pass::kInput) quantize(tokens_);
        return;
      default:
        return;
    }
  }

 private:
  static void add(std::vector<KernelCall>& list, Kernel kernel, std::array<int64_t, 5> shape) {
    if (shape[kRowsEntry] > 0) list.push_back({kernel, shape});
  }
  void quantize(int64_t n) { add(calls_.work, Kernel::kQuantize, {n}); }
  void dequantize(int64_t n) { add(calls_.work, Kernel::kDequantize, {n}); }
  void convert(int64_t n) { add(calls_.work, Kernel::kConvert, {n}); }
  void cached(int64_t n, Kernel scaled) {
    if (f_.swiglu.scaled) {
      add(calls_.work, scaled, {n});
    } else {
      convert(n);
    }
  }

  const Layer& layer_;
  const OpShape& op_;
  const RuntimeFormats& f_;
  OpCalls& calls_;
  bool forward_;
  int64_t t_, tokens_;
};

}  // namespace

void add_conversions(const Layers& layers,
                     const OpShape& op,
                     const RuntimeFormats& formats,
                     OpCalls& calls) {
  if (!formats.narrow()) return;
  const std::vector<KernelCall> kernels = calls.work;
  // The model's end is BF16 under FP8 too.
  if (!formats.operand.scaled || op.kind == OpKind::kHead || op.kind == OpKind::kEmbed) {
    for (const KernelCall& call : kernels) {
      const int64_t elements = converted_elements(call);
      if (elements > 0) calls.work.push_back({Kernel::kConvert, {elements}});
    }
    return;
  }
  Scaled scaled(layers.of(op.moe), layers.architecture.hidden, op, formats, calls);
  for (const KernelCall& call : kernels) scaled.around(call);
  scaled.between();
}

}  // namespace rehearse
