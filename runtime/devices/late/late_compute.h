#pragma once
// The operations of cores, done later: results have their place at once, and their values when the
// lane comes to it.

#include "runtime/devices/cpu/cpu_compute.h"
#include "runtime/devices/cpu/cpu_rows.h"
#include "runtime/devices/late/lane_queue.h"
#include "runtime/devices/null/null_compute.h"

namespace rehearse {

class LateCompute : public NullCompute {
 public:
  // All must outlive it. room: of rows of experts, in choices.
  LateCompute(BufferPool& pool, LaneQueue& queue, const CpuCompute& cores, const double& room)
      : NullCompute(pool), queue_(queue), cores_(cores), room_(room) {}

  Tensor zeros(int64_t rows, int64_t columns) const override {
    Tensor x = NullCompute::zeros(rows, columns);
    LateCompute::clear(x);
    return x;
  }
  Tensor in_type(Tensor x, const Encoding& type, const ExpertRows* = nullptr) const override {
    if (x.type() == type.type) return x;
    Tensor y = make(x.rows(), x.columns(), type.type);
    later({x}, {y}, [rule = type.scales, from = ConstArray(x), to = y.array()] {
      convert(from, to, rule);
    });
    return y;
  }
  void copy(const ConstArray& from, const Array& to) const override {
    later({from}, {to}, [=] { rehearse::copy(from, to); });
  }
  void encode(const ConstArray& from,
              const Array& to,
              const kernels::ScaleRule& rule) const override {
    later({from}, {to}, [=] { convert(from, to, rule); });
  }
  void clear(const Array& x) const override {
    later({}, {x}, [this, x] { cores_.clear(x); });
  }
  Tensor from_host(std::span<const int32_t> values) const override {
    Tensor x = NullCompute::from_host(values);
    later({}, {x}, [all = std::vector<int32_t>(values.begin(), values.end()), to = x.array()] {
      std::copy(all.begin(), all.end(), to.int32());
    });
    return x;
  }
  void to_host(const ConstArray& x, void* to) const override {
    later({x}, {}, [this, x, to] { cores_.to_host(x, to); });
  }

  Tensor product(const ConstArray& x,
                 const ConstArray& w,
                 const Encoding& type,
                 const ConstArray& addend) const override {
    return made_later(NullCompute::product(x, w, type, addend), {x, w, addend}, [=, this] {
      return cores_.product(x, w, type, addend);
    });
  }
  Tensor product_input(const ConstArray& dy, const ConstArray& w) const override {
    return made_later(NullCompute::product_input(dy, w), {dy, w}, [=, this] {
      return cores_.product_input(dy, w);
    });
  }
  Tensor add_product_input(const ConstArray& dy, const ConstArray& w, Tensor dx) const override {
    Tensor y = wide(dx.rows(), dx.columns());
    later({dy, w, dx}, {y}, [=, this, from = ConstArray(dx), to = y.array()] {
      put(cores_.add_product_input(dy, w, copied(from)), to);
    });
    return y;
  }
  void product_weight(const ConstArray& dy,
                      const ConstArray& x,
                      const AlongTokens& rounded,
                      const Array& dw) const override {
    later({dy, x}, {dw}, [=, this] { cores_.product_weight(dy, x, rounded, dw); });
  }
  Tensor grouped_product(const ConstArray& x,
                         std::span<const ConstArray> w,
                         const ExpertRows& rows,
                         const Encoding& type) const override {
    return made_later(
        NullCompute::grouped_product(x, w, rows, type),
        with(with(of(rows), w), {&x, 1}),
        [=, this, all = vector_of(w)] { return cores_.grouped_product(x, all, rows, type); });
  }
  Tensor grouped_product_input(const ConstArray& dy,
                               std::span<const ConstArray> w,
                               const ExpertRows& rows,
                               const Encoding& type) const override {
    return made_later(NullCompute::grouped_product_input(dy, w, rows, type),
                      with(with(of(rows), w), {&dy, 1}),
                      [=, this, all = vector_of(w)] {
                        return cores_.grouped_product_input(dy, all, rows, type);
                      });
  }
  void grouped_product_weight(const ConstArray& dy,
                              const ConstArray& x,
                              const AlongTokens& rounded,
                              const ExpertRows& rows,
                              std::span<const Array> dw) const override {
    const ConstArray both[] = {dy, x};
    const std::vector<Array> all(dw.begin(), dw.end());
    later(with(of(rows), both), all, [=, this] {
      cores_.grouped_product_weight(dy, x, rounded, rows, all);
    });
  }

  Normed norm(const ConstArray& x,
              const ConstArray& gain,
              double eps,
              const Encoding& type) const override {
    Normed n = NullCompute::norm(x, gain, eps, type);
    later({x, gain}, {n.y, n.inverse}, [=, this, y = n.y.array(), inverse = n.inverse.array()] {
      Normed done = cores_.norm(x, gain, eps, type);
      put(done.y, y);
      put(done.inverse, inverse);
    });
    return n;
  }
  Tensor norm_input(const NormBack& n, double eps) const override {
    Tensor dx = NullCompute::norm_input(n, eps);
    later(
        of(n), {dx, n.d_gain}, [=, this, to = dx.array()] { put(cores_.norm_input(n, eps), to); });
    return dx;
  }
  void norm_input_into(const NormBack& n, double eps, const Array& dx) const override {
    later(of(n), {dx, n.d_gain}, [=, this] { cores_.norm_input_into(n, eps, dx); });
  }

  Tensor turned(Tensor x,
                const Rotation& r,
                kernels::Turn turn,
                const Encoding& type) const override {
    Tensor y = make(x.rows(), x.columns(), type.type);
    later({x}, {y}, [=, this, from = ConstArray(x), to = y.array()] {
      put(cores_.turned(copied(from), r, turn, type), to);
    });
    return y;
  }
  Attended attention(const kernels::AttentionShape& s,
                     const AttentionOperands& a,
                     const Encoding& type) const override {
    Attended out = NullCompute::attention(s, a, type);
    later({a.q, a.kv, a.shared},
          {out.o, out.lse},
          [=, this, o = out.o.array(), lse = out.lse.array()] {
            Attended done = cores_.attention(s, a, type);
            put(done.o, o);
            put(done.lse, lse);
          });
    return out;
  }
  AttentionBack attention_input(const kernels::AttentionShape& s,
                                const ConstArray& d_o,
                                const AttentionOperands& a,
                                const ConstArray& o,
                                const ConstArray& lse) const override {
    AttentionBack d = NullCompute::attention_input(s, d_o, a, o, lse);
    const Array shared = d.d_shared.empty() ? Array() : d.d_shared.array();
    later({d_o, a.q, a.kv, a.shared, o, lse},
          {d.dq, d.dkv, shared},
          [=, this, dq = d.dq.array(), dkv = d.dkv.array()] {
            AttentionBack done = cores_.attention_input(s, d_o, a, o, lse);
            put(done.dq, dq);
            put(done.dkv, dkv);
            if (shared.data != nullptr) put(done.d_shared, shared);
          });
    return d;
  }
  Split split_heads(const HeadsShape& s, Tensor qkv, bool keys_alone) const override {
    const ConstArray from = qkv;
    Split out{wide(qkv.rows(), s.q()),
              keys_alone ? wide(qkv.rows(), s.k()) : Tensor(),
              wide(qkv.rows(), s.kv())};
    const Array k = keys_alone ? out.k.array() : Array();
    later({from}, {out.q, k, out.kv}, [=, this, q = out.q.array(), kv = out.kv.array()] {
      Split done = cores_.split_heads(s, copied(from), keys_alone);
      put(done.q, q);
      if (keys_alone) put(done.k, k);
      put(done.kv, kv);
    });
    return out;
  }
  Tensor join_heads(const HeadsShape& s, Tensor q, Tensor kv) const override {
    Tensor qkv = wide(q.rows(), s.all());
    later({q, kv}, {qkv}, [=, this, a = ConstArray(q), b = ConstArray(kv), to = qkv.array()] {
      put(cores_.join_heads(s, copied(a), copied(b)), to);
    });
    return qkv;
  }
  Tensor keys_of(const HeadsShape& s, const ConstArray& kv) const override {
    return made_later(
        NullCompute::keys_of(s, kv), {kv}, [=, this] { return cores_.keys_of(s, kv); });
  }
  void put_keys(const HeadsShape& s, const ConstArray& k, const Array& kv) const override {
    later({k}, {kv}, [=, this] { cores_.put_keys(s, k, kv); });
  }

  Gated gate(const kernels::GateShape& s, Tensor logits, const ConstArray& bias) const override {
    const ConstArray from = logits;
    Gated g = NullCompute::gate(s, Tensor(), bias);
    later({from, bias},
          {g.scores, g.weights, g.chosen},
          [=,
           this,
           scores = g.scores.array(),
           weights = g.weights.array(),
           chosen = g.chosen.array()] {
            Gated done = cores_.gate(s, copied(from), bias);
            put(done.scores, scores);
            put(done.weights, weights);
            put(done.chosen, chosen);
          });
    return g;
  }
  void force_balanced(const Architecture& model,
                      const kernels::GateShape& s,
                      const ConstArray& scores,
                      const Array& weights,
                      const Array& chosen) const override {
    later({scores}, {weights, chosen}, [=, this, &model] {
      cores_.force_balanced(model, s, scores, weights, chosen);
    });
  }
  Tensor gate_input(const kernels::GateShape& s,
                    const kernels::BalanceLoss& loss,
                    const ConstArray& d_weights,
                    const ConstArray& scores,
                    const ConstArray& chosen) const override {
    return made_later(NullCompute::gate_input(s, loss, d_weights, scores, chosen),
                      {d_weights, scores, chosen},
                      [=, this] { return cores_.gate_input(s, loss, d_weights, scores, chosen); });
  }
  Tensor slots(const ConstArray& chosen, const ConstArray& slot_of) const override {
    return made_later(NullCompute::slots(chosen, slot_of), {chosen, slot_of}, [=, this] {
      return cores_.slots(chosen, slot_of);
    });
  }
  void count(const ConstArray& chosen, const Array& load) const override {
    later({chosen}, {load}, [=, this] { cores_.count(chosen, load); });
  }
  void update_bias(const ConstArray& load, double speed, const Array& bias) const override {
    later({load}, {bias}, [=, this] { cores_.update_bias(load, speed, bias); });
  }

  // As much room as the device gives, which what comes may overflow.
  RowMap map_rows(const ConstArray& slots,
                  int64_t experts,
                  const Array& overflowed) const override {
    const double all = static_cast<double>(slots.extent.size());
    RowMap map = map_of(slots, experts, static_cast<int64_t>(std::ceil(room_ * all)));
    const Array rows[] = {map.expert_rows, map.token_of_row, map.choice_of_row, map.row_of};
    later({slots},
          {rows[0], rows[1], rows[2], rows[3], overflowed},
          [=, a = rows[0], b = rows[1], c = rows[2], d = rows[3]] {
            *overflowed.int64() += fill_rows(slots, a, b, c, d);
          });
    return map;
  }
  Tensor permute(const ExpertRows& rows, const ConstArray& x) const override {
    return made_later(NullCompute::permute(rows, x), with(of(rows), {&x, 1}), [=, this] {
      return cores_.permute(rows, x);
    });
  }
  Tensor unpermute(const ExpertRows& rows,
                   const ConstArray& x,
                   const ConstArray& first,
                   const ConstArray& second,
                   const Encoding& type) const override {
    const ConstArray all[] = {x, first, second};
    return made_later(NullCompute::unpermute(rows, x, first, second, type),
                      with(of(rows), all),
                      [=, this] { return cores_.unpermute(rows, x, first, second, type); });
  }
  Tensor of_rows(const ExpertRows& rows, const ConstArray& choices) const override {
    return made_later(NullCompute::of_rows(rows, choices),
                      with(of(rows), {&choices, 1}),
                      [=, this] { return cores_.of_rows(rows, choices); });
  }
  Tensor of_choices(const ExpertRows& rows, const ConstArray& x) const override {
    return made_later(NullCompute::of_choices(rows, x), with(of(rows), {&x, 1}), [=, this] {
      return cores_.of_choices(rows, x);
    });
  }
  Tensor beside(const ExpertRows& rows, const ConstArray& x, const ConstArray& y) const override {
    const ConstArray both[] = {x, y};
    return made_later(NullCompute::beside(rows, x, y), with(of(rows), both), [=, this] {
      return cores_.beside(rows, x, y);
    });
  }
  Tensor columns(const ConstArray& x, Columns c) const override {
    return made_later(NullCompute::columns(x, c), {x}, [=, this] { return cores_.columns(x, c); });
  }
  void put_columns(const ConstArray& x, int64_t first, const Array& into) const override {
    later({x}, {into}, [=, this] { cores_.put_columns(x, first, into); });
  }

  Tensor swiglu(const ConstArray& gate_up,
                const Weighted* rows,
                const Encoding& type) const override {
    return made_later(NullCompute::swiglu(gate_up, rows, type),
                      with(of(rows), {&gate_up, 1}),
                      [=, this, own = copy_of(rows)] {
                        return cores_.swiglu(gate_up, own ? &*own : nullptr, type);
                      });
  }
  SwigluBack swiglu_input(const ConstArray& d_activated,
                          const ConstArray& gate_up,
                          const Weighted* rows,
                          const Encoding& type) const override {
    SwigluBack d = NullCompute::swiglu_input(d_activated, gate_up, rows, type);
    const Array weights = d.d_row_weights.empty() ? Array() : d.d_row_weights.array();
    const ConstArray both[] = {d_activated, gate_up};
    later(with(of(rows), both),
          {d.d_gate_up, weights},
          [=, this, own = copy_of(rows), to = d.d_gate_up.array()] {
            SwigluBack done =
                cores_.swiglu_input(d_activated, gate_up, own ? &*own : nullptr, type);
            put(done.d_gate_up, to);
            if (own) put(done.d_row_weights, weights);
          });
    return d;
  }
  Tensor sum(Tensor x,
             std::initializer_list<ConstArray> addends,
             const Encoding& type) const override {
    Tensor y = make(x.rows(), x.columns(), type.type);
    std::vector<ConstArray> reads(addends);
    reads.push_back(x);
    later(reads, {y}, [=, this, from = ConstArray(x), to = y.array()] {
      Tensor sums = copied(from);
      for (size_t i = 0; i + 1 < reads.size(); ++i) {
        sums = cores_.sum(std::move(sums), {reads[i]}, DType::kFp32);
      }
      put(cores_.in_type(std::move(sums), type), to);
    });
    return y;
  }
  void accumulate(const ConstArray& x, const Array& gradient) const override {
    later({x}, {gradient}, [=, this] { cores_.accumulate(x, gradient); });
  }
  void count_bad(const ConstArray& x, const Array& count) const override {
    later({x}, {count}, [=, this] { cores_.count_bad(x, count); });
  }

  Tensor embedding(const ConstArray& tokens,
                   const ConstArray& table,
                   const Encoding& type) const override {
    return made_later(NullCompute::embedding(tokens, table, type), {tokens, table}, [=, this] {
      return cores_.embedding(tokens, table, type);
    });
  }
  void embedding_weight(const ConstArray& tokens,
                        const ConstArray& dx,
                        const Array& d_table) const override {
    later({tokens, dx}, {d_table}, [=, this] { cores_.embedding_weight(tokens, dx, d_table); });
  }
  Losses cross_entropy(const ConstArray& targets,
                       const ConstArray& logits,
                       const Array& sum) const override {
    Losses l = NullCompute::cross_entropy(targets, logits, sum);
    later({targets, logits},
          {l.losses, l.lse, sum},
          [=, this, losses = l.losses.array(), lse = l.lse.array()] {
            Losses done = cores_.cross_entropy(targets, logits, sum);
            put(done.losses, losses);
            put(done.lse, lse);
          });
    return l;
  }
  void cross_entropy_input(const ConstArray& targets,
                           double scale,
                           const ConstArray& lse,
                           const Array& logits) const override {
    later({targets, lse}, {logits}, [=, this] {
      cores_.cross_entropy_input(targets, scale, lse, logits);
    });
  }
  void step_status(std::span<const ConstArray> gradients,
                   const ConstArray& overflowed,
                   std::span<const ConstArray> losses,
                   const Array& status) const override {
    later(with(with({overflowed}, gradients), losses),
          {status},
          [=, this, g = vector_of(gradients), l = vector_of(losses)] {
            cores_.step_status(g, overflowed, l, status);
          });
  }
  void adamw(const AdamwCall& call) const override {
    later({call.status, call.gradients},
          {call.weights, call.rounded, call.m, call.v, call.average},
          [=, this] { cores_.adamw(call); });
  }

 private:
  using Reads = std::vector<ConstArray>;
  using Writes = std::vector<Array>;

  template <typename F>
  void later(Reads reads, Writes writes, F work) const {
    queue_.enqueue(std::move(reads), std::move(writes), std::move(work));
  }
  // With one result, whose place is `y`.
  template <typename F>
  Tensor made_later(Tensor y, Reads reads, F work) const {
    queue_.enqueue(std::move(reads), {y.array()}, [=, to = y.array()] { put(work(), to); });
    return y;
  }
  static void put(const ConstArray& from, const Array& to) { rehearse::copy(from, to); }
  Tensor copied(const ConstArray& x) const {
    Tensor own = cores_.make(x.extent.rows, x.extent.columns, x.extent.type);
    rehearse::copy(x, own);
    return own;
  }
  static Reads vector_of(std::span<const ConstArray> all) { return {all.begin(), all.end()}; }
  static Reads of(const ExpertRows& r) {
    return {r.expert_rows, r.token_of_row, r.choice_of_row, r.row_of};
  }
  static Reads of(const NormBack& n) { return {n.dy, n.x, n.gain, n.inverse, n.addend}; }
  static Reads of(const Weighted* rows) {
    return rows == nullptr ? Reads() : with(of(rows->rows), {&rows->weights, 1});
  }
  static Reads with(Reads all, std::span<const ConstArray> more) {
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  static std::optional<Weighted> copy_of(const Weighted* rows) {
    return rows == nullptr ? std::nullopt : std::optional(*rows);
  }

  LaneQueue& queue_;
  const CpuCompute& cores_;
  const double& room_;
};

}  // namespace rehearse
