#include "cost/op_kernels.h"

#include <algorithm>
#include <numeric>

#include "base/integers.h"

namespace rehearse {
namespace {

// A visitor of a variant, one function per alternative.
template <typename... F>
struct Each : F... {
  using F::operator()...;
};

// Appends calls for one op; the functions below read as the list of an op's work.
class Calls {
 public:
  Calls(const Layers& layers, const OpShape& op, const Recompute& again)
      : a_(layers.architecture),
        layer_(layers.of(op.moe)),
        op_(op),
        again_(again),
        t_(op.sequences * op.length) {}

  void attention_forward() {
    for (const Step& step : layer_.attention) {
      std::visit(Each{[&](const Norm& n) { norm(n); },
                      [&](const Linear& l) {
                        product(l.out, l.in);
                        if (l.part == Part::kQkv) copy(calls_.work, t_ * l.out);  // by head
                      },
                      [&](const Rope& r) { rope(r); },
                      [&](const Core& c) { core(Kernel::kAttention, c); },
                      [&](const Residual& r) {
                        call(Kernel::kAdd, {t_, r.width});
                      },
                      [&](const Gate& g) {
                        call(Kernel::kGate, {t_, g.experts, g.active});
                      }},
                 step);
    }
  }

  void attention_input() {
    // What was not kept: norms but the FFN's, and expansions of compressions, the queries' turned.
    for (const Step& step : layer_.attention) {
      const auto* n = std::get_if<Norm>(&step);
      const auto* l = std::get_if<Linear>(&step);
      if (n != nullptr && again_.norms && n->heads == 0 && n->part != Part::kPostNorm) norm(*n);
      if (l == nullptr || !again_.up_projections || l->role != Role::kExpand) continue;
      product(l->out, l->in);
      if (l->part != Part::kKeyValueUp) rope(layer_.rope);
    }
    for (auto step = layer_.attention.rbegin(); step != layer_.attention.rend(); ++step) {
      std::visit(Each{[&](const Norm& n) {
                        call(Kernel::kRmsNormBackward, {rows_of(n), n.width});
                      },
                      [&](const Linear& l) {
                        if (l.part == Part::kQkv) copy(calls_.work, t_ * l.out);
                        grad_input(l.out, l.in);
                      },
                      [&](const Rope& r) { rope(r); },
                      [&](const Core& c) { core(Kernel::kAttentionBackward, c); },
                      [](const Residual&) {},  // in the norm's
                      [&](const Gate& g) {
                        call(Kernel::kGateBackward, {t_, g.experts, g.active});
                      }},
                 *step);
    }
  }

  void attention_weight() {
    for (auto step = layer_.attention.rbegin(); step != layer_.attention.rend(); ++step) {
      if (const auto* l = std::get_if<Linear>(&*step)) grad_weight(l->out, l->in);
    }
  }

  void mlp(Kernel product_kind, Kernel activation) {
    if (op_.pass == Pass::kInput) {
      if (again_.norms) norm(a_.hidden);
      if (again_.activations) activate_again();
    }
    if (layer_.dense) {
      gated(product_kind, activation, *layer_.dense);
      if (op_.pass == Pass::kForward) call(Kernel::kAdd, {t_, a_.hidden});
      return;
    }
    for (const int64_t m : op_.expert_rows) gated_products(product_kind, m, *layer_.experts);
    activate(activation, expert_rows(), layer_.experts->width);
    if (layer_.shared) gated(product_kind, activation, *layer_.shared);
  }

  void dispatch() {
    const int64_t rows = expert_rows();
    const int64_t k = a_.active_experts;
    if (op_.pass == Pass::kForward) {
      if (op_.exchange) {
        // A token travels with its weights and choices, and is split from them at the end.
        const ExchangeTokens& x = *op_.exchange;
        gather(calls_.pack, x.sent, a_.hidden + 2 * k);
        gather(calls_.forward, x.forwarded, a_.hidden + 2 * k);
        copy(calls_.work, x.arrived * (a_.hidden + 2 * k));
        copy(calls_.work, x.arrived * a_.hidden);
      }
      gather(calls_.work, rows, a_.hidden);
    } else if (op_.exchange) {
      sum_rows(calls_.pack, rows);
      copy(calls_.pack, op_.exchange->arrived * a_.hidden);
      reduce(a_.hidden + k);
      copy(calls_.work, t_ * a_.hidden);
      if (layer_.shared) add(calls_.work, t_, a_.hidden);
    } else {
      sum_rows(calls_.work, rows);
    }
  }

  void combine() {
    const int64_t rows = expert_rows();
    if (op_.pass == Pass::kForward) {
      if (op_.exchange) {
        sum_rows(calls_.pack, rows);
        reduce(a_.hidden);
        add(calls_.work, t_, a_.hidden);
        if (layer_.shared) add(calls_.work, t_, a_.hidden);
      } else {
        sum_rows(calls_.work, rows);
      }
    } else {
      if (op_.exchange) {
        gather(calls_.pack, op_.exchange->sent, a_.hidden);
        gather(calls_.forward, op_.exchange->forwarded, a_.hidden);
        copy(calls_.work, op_.exchange->arrived * a_.hidden);
      }
      gather(calls_.work, rows, a_.hidden);
    }
  }

  void embed() {
    call(op_.pass == Pass::kForward ? Kernel::kEmbedding : Kernel::kEmbeddingBackward,
         {t_, a_.hidden});
  }

  void head() {
    if (op_.pass == Pass::kForward) {
      norm(a_.hidden);
      product(a_.vocabulary, a_.hidden);
      call(Kernel::kCrossEntropy, {t_, a_.vocabulary});
    } else if (op_.pass == Pass::kInput) {
      call(Kernel::kCrossEntropyBackward, {t_, a_.vocabulary});
      grad_input(a_.vocabulary, a_.hidden);
      norm_backward(a_.hidden);
    } else {
      grad_weight(a_.vocabulary, a_.hidden);
    }
  }

  void mtp() {
    if (op_.pass == Pass::kForward) {
      call(Kernel::kEmbedding, {t_, a_.hidden});
      norm(a_.hidden);
      norm(a_.hidden);
      product(a_.hidden, 2 * a_.hidden);
    } else if (op_.pass == Pass::kInput) {
      grad_input(a_.hidden, 2 * a_.hidden);
      norm_backward(a_.hidden);
      norm_backward(a_.hidden);
    } else {
      grad_weight(a_.hidden, 2 * a_.hidden);
      call(Kernel::kEmbeddingBackward, {t_, a_.hidden});
    }
  }

  OpCalls take() { return std::move(calls_); }

 private:
  using List = std::vector<KernelCall>;

  static void append(List& list, Kernel kernel, std::array<int64_t, 5> shape) {
    if (shape[kRowsEntry] > 0) list.push_back({kernel, shape});
  }
  void call(Kernel kernel, std::array<int64_t, 5> shape) { append(calls_.work, kernel, shape); }

  int64_t expert_rows() const {
    return std::accumulate(op_.expert_rows.begin(), op_.expert_rows.end(), int64_t{0});
  }
  static void gather(List& list, int64_t rows, int64_t width) {
    append(list, Kernel::kPermute, {rows, width});
  }
  static void copy(List& list, int64_t elements) { append(list, Kernel::kCopy, {elements}); }
  static void add(List& list, int64_t rows, int64_t width) {
    append(list, Kernel::kAdd, {rows, width});
  }
  // Rows back to the tokens that are here.
  void sum_rows(List& list, int64_t rows) {
    const int64_t tokens = op_.exchange ? op_.exchange->arrived : t_;
    if (tokens == 0) return;
    append(list, Kernel::kUnpermute, {tokens, ceil_div(rows, tokens), a_.hidden});
  }
  // The way back of an exchange: copies to where the tokens came from, summed there within the
  // node, and at their own rank across nodes.
  void reduce(int64_t width) {
    const ExchangeTokens& x = *op_.exchange;
    copy(calls_.pack, x.arrived * width);
    append(calls_.forward, Kernel::kFill, {x.received * width});
    add(calls_.forward, x.forwarded, width);
    append(calls_.work, Kernel::kFill, {t_ * width});
    add(calls_.work, x.sent, width);
  }
  int64_t rows_of(const Norm& n) const { return t_ * std::max<int64_t>(1, n.heads); }
  void norm(const Norm& n) { call(Kernel::kRmsNorm, {rows_of(n), n.width}); }
  void norm(int64_t width) { call(Kernel::kRmsNorm, {t_, width}); }
  void norm_backward(int64_t width) { call(Kernel::kRmsNormBackward, {t_, width}); }
  void rope(const Rope& r) { call(Kernel::kRope, {t_, r.heads, r.width}); }
  void product(int64_t n, int64_t k) { call(Kernel::kMatmul, {t_, n, k}); }
  void grad_input(int64_t n, int64_t k) { call(Kernel::kMatmulGradInput, {t_, n, k}); }
  void grad_weight(int64_t n, int64_t k) { call(Kernel::kMatmulGradWeight, {t_, n, k}); }
  void core(Kernel kernel, const Core& c) {
    call(kernel, {op_.sequences, op_.length, c.heads, c.qk, c.v});
  }

  // The two products of a gated FFN: gate and up in one, then down.
  void gated_products(Kernel kind, int64_t m, const Ffn& f) {
    call(kind, {m, f.gate_up.out, f.gate_up.in});
    call(kind, {m, f.down.out, f.down.in});
  }
  void activate(Kernel activation, int64_t m, int64_t width) {
    if (op_.pass != Pass::kWeight) call(activation, {m, width});
  }
  void activate_again() {
    if (layer_.dense) call(Kernel::kSwiglu, {t_, layer_.dense->width});
    if (layer_.experts) call(Kernel::kSwiglu, {expert_rows(), layer_.experts->width});
    if (layer_.shared) call(Kernel::kSwiglu, {t_, layer_.shared->width});
  }
  void gated(Kernel kind, Kernel activation, const Ffn& f) {
    gated_products(kind, t_, f);
    activate(activation, t_, f.width);
  }

  const Architecture& a_;
  const Layer& layer_;
  const OpShape& op_;
  const Recompute& again_;
  int64_t t_;
  OpCalls calls_;
};

}  // namespace

std::vector<KernelCall> OpCalls::all() const {
  std::vector<KernelCall> calls = pack;
  calls.insert(calls.end(), forward.begin(), forward.end());
  calls.insert(calls.end(), work.begin(), work.end());
  return calls;
}

OpCalls op_kernels(const Layers& layers, const OpShape& op, const Recompute& again) {
  Calls calls(layers, op, again);
  switch (op.kind) {
    case OpKind::kAttn:
      if (op.pass == Pass::kForward) calls.attention_forward();
      if (op.pass == Pass::kInput) calls.attention_input();
      if (op.pass == Pass::kWeight) calls.attention_weight();
      break;
    case OpKind::kMlp:
      if (op.pass == Pass::kForward) calls.mlp(Kernel::kMatmul, Kernel::kSwiglu);
      if (op.pass == Pass::kInput) calls.mlp(Kernel::kMatmulGradInput, Kernel::kSwigluBackward);
      if (op.pass == Pass::kWeight) calls.mlp(Kernel::kMatmulGradWeight, Kernel::kSwigluBackward);
      break;
    case OpKind::kDispatch:
      calls.dispatch();
      break;
    case OpKind::kCombine:
      calls.combine();
      break;
    case OpKind::kEmbed:
      calls.embed();
      break;
    case OpKind::kHead:
      calls.head();
      break;
    case OpKind::kMtp:
      calls.mtp();
      break;
    default:
      break;
  }
  return calls.take();
}

}  // namespace rehearse
