#include "cost/op_kernels.h"

#include <numeric>

namespace rehearse {
namespace {

// Appends calls for one op; the functions below read as the list of an op's work.
class Calls {
 public:
  Calls(const Architecture& a, const OpShape& op) : a_(a), op_(op), t_(op.sequences * op.length) {}

  void attention_forward() {
    norm(a_.hidden);
    if (a_.q_lora) {
      product(*a_.q_lora, a_.hidden);
      norm(*a_.q_lora);
    }
    product(a_.heads * a_.qk_head(), a_.q_lora.value_or(a_.hidden));
    product(a_.kv_lora + a_.qk_rope, a_.hidden);
    norm(a_.kv_lora);
    product(a_.heads * (a_.qk_nope + a_.v_head), a_.kv_lora);
    rope(a_.heads);
    rope(1);
    core(Kernel::kAttention);
    product(a_.hidden, a_.heads * a_.v_head);
    call(Kernel::kAdd, {t_, a_.hidden});
    norm(a_.hidden);
    if (op_.moe) {
      product(a_.experts, a_.hidden);
      call(Kernel::kGate, {t_, a_.experts, a_.active_experts});
    }
  }

  void attention_input() {
    if (op_.moe) {
      call(Kernel::kGateBackward, {t_, a_.experts, a_.active_experts});
      grad_input(a_.experts, a_.hidden);
    }
    norm_backward(a_.hidden);
    grad_input(a_.hidden, a_.heads * a_.v_head);
    core(Kernel::kAttentionBackward);
    rope(a_.heads);
    rope(1);
    grad_input(a_.heads * (a_.qk_nope + a_.v_head), a_.kv_lora);
    norm_backward(a_.kv_lora);
    grad_input(a_.kv_lora + a_.qk_rope, a_.hidden);
    grad_input(a_.heads * a_.qk_head(), a_.q_lora.value_or(a_.hidden));
    if (a_.q_lora) {
      norm_backward(*a_.q_lora);
      grad_input(*a_.q_lora, a_.hidden);
    }
    norm_backward(a_.hidden);
  }

  void attention_weight() {
    if (op_.moe) grad_weight(a_.experts, a_.hidden);
    grad_weight(a_.hidden, a_.heads * a_.v_head);
    grad_weight(a_.heads * (a_.qk_nope + a_.v_head), a_.kv_lora);
    grad_weight(a_.kv_lora + a_.qk_rope, a_.hidden);
    grad_weight(a_.heads * a_.qk_head(), a_.q_lora.value_or(a_.hidden));
    if (a_.q_lora) grad_weight(*a_.q_lora, a_.hidden);
  }

  void mlp(Kernel product_kind, Kernel activation) {
    if (!op_.moe) {
      gated(product_kind, activation, t_, a_.dense_intermediate);
      if (op_.pass == Pass::kForward) call(Kernel::kAdd, {t_, a_.hidden});
      return;
    }
    for (const int64_t m : op_.expert_rows) gated_products(product_kind, m, a_.expert_intermediate);
    activate(activation, expert_rows(), a_.expert_intermediate);
    if (a_.shared_experts > 0) {
      gated(product_kind, activation, t_, a_.shared_experts * a_.expert_intermediate);
    }
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
      if (a_.shared_experts > 0) add(calls_.work, t_, a_.hidden);
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
        if (a_.shared_experts > 0) add(calls_.work, t_, a_.hidden);
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
    append(list, Kernel::kUnpermute, {tokens, (rows + tokens - 1) / tokens, a_.hidden});
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
  void norm(int64_t width) { call(Kernel::kRmsNorm, {t_, width}); }
  void norm_backward(int64_t width) { call(Kernel::kRmsNormBackward, {t_, width}); }
  void rope(int64_t heads) { call(Kernel::kRope, {t_, heads, a_.qk_rope}); }
  void product(int64_t n, int64_t k) { call(Kernel::kMatmul, {t_, n, k}); }
  void grad_input(int64_t n, int64_t k) { call(Kernel::kMatmulGradInput, {t_, n, k}); }
  void grad_weight(int64_t n, int64_t k) { call(Kernel::kMatmulGradWeight, {t_, n, k}); }
  void core(Kernel kernel) {
    call(kernel, {op_.sequences, op_.length, a_.heads, a_.qk_head(), a_.v_head});
  }

  // The two products of a gated FFN: gate and up in one, then down.
  void gated_products(Kernel kind, int64_t m, int64_t width) {
    call(kind, {m, 2 * width, a_.hidden});
    call(kind, {m, a_.hidden, width});
  }
  void activate(Kernel activation, int64_t m, int64_t width) {
    if (op_.pass != Pass::kWeight) call(activation, {m, width});
  }
  void gated(Kernel kind, Kernel activation, int64_t m, int64_t width) {
    gated_products(kind, m, width);
    activate(activation, m, width);
  }

  const Architecture& a_;
  const OpShape& op_;
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

OpCalls op_kernels(const Architecture& a, const OpShape& op) {
  Calls calls(a, op);
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

Flops layer_forward_flops(const Architecture& a, int64_t layer, int64_t length, bool causal) {
  const auto d = [](int64_t x) { return static_cast<double>(x); };
  const int64_t q_in = a.q_lora.value_or(a.hidden);
  double weights = d(q_in * a.heads * a.qk_head()) + d((a.kv_lora + a.qk_rope) * a.hidden) +
                   d(a.kv_lora * a.heads * (a.qk_nope + a.v_head)) +
                   d(a.heads * a.v_head * a.hidden);
  if (a.q_lora) weights += d(*a.q_lora * a.hidden);
  if (a.is_moe(layer)) {
    weights += d(a.experts * a.hidden) +
               d((a.active_experts + a.shared_experts) * 3 * a.hidden * a.expert_intermediate);
  } else {
    weights += d(3 * a.hidden * a.dense_intermediate);
  }
  const double keys = causal ? (d(length) + 1) / 2 : d(length);
  return Flops(2 * weights + 2 * keys * d(a.heads * (a.qk_head() + a.v_head)));
}

Flops training_flops_per_token(const Architecture& a, int64_t length, bool causal) {
  Flops forward(2.0 * static_cast<double>(a.vocabulary * a.hidden));
  for (int64_t layer = 0; layer < a.layers; ++layer) {
    forward += layer_forward_flops(a, layer, length, causal);
  }
  return forward * 3.0;
}

}  // namespace rehearse
