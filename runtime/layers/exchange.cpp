#include "runtime/layers/exchange.h"

#include <algorithm>

#include "base/errors.h"

namespace rehearse {
namespace {

Message fp32_message(int64_t rows, int64_t width) {
  return Message({DType::kFp32, rows, width});
}

// Of the phase within nodes, where it comes second.
Ready second_ready(const ExchangeCall& call) {
  return call.group.nodes > 1 ? Ready([] {}) : call.ready;
}

Tensor stacked(const std::vector<Message>& messages, int64_t width, BufferPool& pool) {
  int64_t rows = 0;
  for (const Message& m : messages) rows += m.rows();
  Tensor t(pool, rows, width);
  float* at = t.data();
  for (const Message& m : messages) at = std::copy_n(m.fp32(), m.extent().size(), at);
  return t;
}

}  // namespace

Exchange::Messages Exchange::across(const ExchangeCall& call, Messages outgoing) const {
  const std::vector<int64_t> peers = call.group.across_nodes();
  const int64_t me = call.group.ranks[static_cast<size_t>(call.group.me)];
  // On a single node this phase has nobody to wait for; the other one tells when all have come.
  const Ready ready = call.group.nodes > 1 ? call.ready : Ready([] {});
  return call.communicator.all_to_all({peers, call.key}, me, std::move(outgoing), ready);
}

Exchange::Messages Exchange::within(const ExchangeCall& call,
                                    Messages outgoing,
                                    const Ready& ready) const {
  const std::vector<int64_t> peers = call.group.within_node();
  const int64_t me = call.group.ranks[static_cast<size_t>(call.group.me)];
  return call.communicator.all_to_all({peers, call.key + 1}, me, std::move(outgoing), ready);
}

// The second phase's messages: per position of my node, its rows of every node's message.
Exchange::Messages Exchange::forward(const Messages& from_nodes) const {
  const int64_t width = from_nodes.front().extent().columns;
  Messages outgoing;
  for (size_t p = 0; p < from_position_.size(); ++p) {
    int64_t rows = 0;
    for (const auto& of_node : forward_) rows += static_cast<int64_t>(of_node[p].size());
    outgoing.push_back(fp32_message(rows, width));
    float* at = outgoing.back().fp32();
    for (size_t n = 0; n < from_nodes.size(); ++n) {
      for (const int32_t row : forward_[n][p]) {
        at = std::copy_n(from_nodes[n].fp32() + row * width, width, at);
      }
    }
  }
  return outgoing;
}

Exchange::Arrived Exchange::dispatch(const ExchangeCall& call,
                                     const Tensor& x,
                                     std::span<const int32_t> chosen,
                                     const Tensor& weights) {
  const ExpertGroup& g = call.group;
  const int64_t active = weights.columns();
  const int64_t width = dispatch_width(x.columns(), active);
  tokens_ = x.rows();
  to_node_.assign(static_cast<size_t>(g.nodes), {});
  std::vector<char> goes(static_cast<size_t>(g.nodes));
  for (int64_t t = 0; t < tokens_; ++t) {
    std::fill(goes.begin(), goes.end(), 0);
    for (int64_t k = 0; k < active; ++k) {
      goes[static_cast<size_t>(g.node_of(g.holder(chosen[static_cast<size_t>(t * active + k)])))] =
          1;
    }
    for (size_t n = 0; n < goes.size(); ++n) {
      if (goes[n]) to_node_[n].push_back(static_cast<int32_t>(t));
    }
  }
  Messages outgoing;
  for (const Rows& tokens : to_node_) {
    outgoing.push_back(fp32_message(static_cast<int64_t>(tokens.size()), width));
    float* at = outgoing.back().fp32();
    for (const int32_t t : tokens) {
      at = std::copy_n(x.data() + t * x.columns(), x.columns(), at);
      at = std::copy_n(weights.data() + t * active, active, at);
      // Expert indices are far below 2^24: a float holds them exactly.
      at = std::transform(
          chosen.begin() + t * active, chosen.begin() + (t + 1) * active, at, [](int32_t e) {
            return static_cast<float>(e);
          });
    }
  }
  const Messages from_nodes = across(call, std::move(outgoing));

  forward_.assign(static_cast<size_t>(g.nodes), std::vector<Rows>(static_cast<size_t>(g.per_node)));
  from_node_.clear();
  from_position_.assign(static_cast<size_t>(g.per_node), 0);
  std::vector<char> goes_on(static_cast<size_t>(g.per_node));
  for (size_t n = 0; n < from_nodes.size(); ++n) {
    from_node_.push_back(from_nodes[n].rows());
    for (int64_t row = 0; row < from_node_[n]; ++row) {
      const float* experts = from_nodes[n].fp32() + (row + 1) * width - active;
      std::fill(goes_on.begin(), goes_on.end(), 0);
      for (int64_t k = 0; k < active; ++k) {
        const int64_t holder = g.holder(static_cast<int64_t>(experts[k]));
        if (g.node_of(holder) == g.node_of(g.me)) {
          goes_on[static_cast<size_t>(g.position_of(holder))] = 1;
        }
      }
      for (size_t p = 0; p < goes_on.size(); ++p) {
        if (goes_on[p]) forward_[n][p].push_back(static_cast<int32_t>(row));
      }
    }
  }
  const Messages arrived = within(call, forward(from_nodes), second_ready(call));

  for (size_t p = 0; p < arrived.size(); ++p) from_position_[p] = arrived[p].rows();
  const Tensor all = stacked(arrived, width, call.pool);
  Arrived result{.x = Tensor(call.pool, all.rows(), x.columns()),
                 .experts = std::vector<int32_t>(static_cast<size_t>(all.rows() * active), -1),
                 .weights = Tensor(call.pool, all.rows(), active)};
  const int64_t first_expert = g.me * g.experts_per_member;
  for (int64_t i = 0; i < all.rows(); ++i) {
    const float* row = all.data() + i * width;
    std::copy(row, row + x.columns(), result.x.data() + i * x.columns());
    std::copy(row + x.columns(), row + x.columns() + active, result.weights.data() + i * active);
    for (int64_t k = 0; k < active; ++k) {
      const auto expert = static_cast<int64_t>(row[width - active + k]);
      if (g.holder(expert) != g.me) continue;
      result.experts[static_cast<size_t>(i * active + k)] =
          static_cast<int32_t>(expert - first_expert);
    }
  }
  return result;
}

Tensor Exchange::spread(const ExchangeCall& call, const Tensor& x) const {
  CHECK(x.rows() == tokens_) << x.rows() << " tokens, dispatched " << tokens_;
  const int64_t width = x.columns();
  Messages outgoing;
  for (const Rows& tokens : to_node_) {
    outgoing.push_back(fp32_message(static_cast<int64_t>(tokens.size()), width));
    float* at = outgoing.back().fp32();
    for (const int32_t t : tokens) at = std::copy_n(x.data() + t * width, width, at);
  }
  const Messages from_nodes = across(call, std::move(outgoing));
  return stacked(within(call, forward(from_nodes), second_ready(call)), width, call.pool);
}

Tensor Exchange::reduce(const ExchangeCall& call, const Tensor& partial) const {
  const int64_t width = partial.columns();
  Messages back;
  const float* at = partial.data();
  for (const int64_t rows : from_position_) {
    back.push_back(fp32_message(rows, width));
    std::copy_n(at, rows * width, back.back().fp32());
    at += rows * width;
  }
  const bool alone = call.group.per_node == 1;  // then the phase across nodes is the first
  const Messages from_positions = within(call, std::move(back), alone ? Ready([] {}) : call.ready);

  // Sums of this node's ranks, per source node, in the order of positions.
  Messages sums;
  for (const int64_t rows : from_node_) {
    sums.push_back(fp32_message(rows, width));
    std::fill_n(sums.back().fp32(), rows * width, 0.0f);
  }
  for (size_t p = 0; p < from_positions.size(); ++p) {
    const float* row = from_positions[p].fp32();
    for (size_t n = 0; n < sums.size(); ++n) {
      for (const int32_t i : forward_[n][p]) {
        float* sum = sums[n].fp32() + i * width;
        for (int64_t j = 0; j < width; ++j) sum[j] += row[j];
        row += width;
      }
    }
  }
  const ExchangeCall last{
      call.group, call.communicator, call.pool, call.key, alone ? call.ready : Ready([] {})};
  const Messages from_nodes = across(last, std::move(sums));

  Tensor out(call.pool, tokens_, width);
  out.fill(0);
  for (size_t n = 0; n < from_nodes.size(); ++n) {
    const float* row = from_nodes[n].fp32();
    for (const int32_t t : to_node_[n]) {
      float* sum = out.data() + t * width;
      for (int64_t j = 0; j < width; ++j) sum[j] += row[j];
      row += width;
    }
  }
  return out;
}

}  // namespace rehearse
