#include "runtime/layers/exchange.h"

#include <algorithm>

#include "base/errors.h"

namespace rehearse {
namespace {

void append_row(std::vector<float>& message, const float* row, int64_t width) {
  message.insert(message.end(), row, row + width);
}

int64_t rows_of(const std::vector<float>& message, int64_t width) {
  return static_cast<int64_t>(message.size()) / width;
}

// Of the phase within nodes, where it comes second.
Ready second_ready(const ExchangeCall& call) {
  return call.group.nodes > 1 ? Ready([] {}) : call.ready;
}

Tensor stacked(const std::vector<std::vector<float>>& messages, int64_t width, BufferPool& pool) {
  int64_t rows = 0;
  for (const auto& m : messages) rows += rows_of(m, width);
  Tensor t(pool, rows, width);
  float* at = t.data();
  for (const auto& m : messages) at = std::copy(m.begin(), m.end(), at);
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
Exchange::Messages Exchange::forward(const Messages& from_nodes, int64_t width) const {
  Messages outgoing(from_position_.size());
  for (size_t n = 0; n < from_nodes.size(); ++n) {
    for (size_t p = 0; p < outgoing.size(); ++p) {
      outgoing[p].reserve(outgoing[p].size() + forward_[n][p].size() * static_cast<size_t>(width));
      for (const int32_t row : forward_[n][p]) {
        append_row(outgoing[p], from_nodes[n].data() + row * width, width);
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
  Messages outgoing(static_cast<size_t>(g.nodes));
  for (auto& message : outgoing) message.reserve(static_cast<size_t>(tokens_ * width));
  std::vector<char> goes(static_cast<size_t>(g.nodes));
  for (int64_t t = 0; t < tokens_; ++t) {
    std::fill(goes.begin(), goes.end(), 0);
    for (int64_t k = 0; k < active; ++k) {
      goes[static_cast<size_t>(g.node_of(g.holder(chosen[static_cast<size_t>(t * active + k)])))] =
          1;
    }
    for (size_t n = 0; n < goes.size(); ++n) {
      if (!goes[n]) continue;
      to_node_[n].push_back(static_cast<int32_t>(t));
      append_row(outgoing[n], x.data() + t * x.columns(), x.columns());
      append_row(outgoing[n], weights.data() + t * active, active);
      // Expert indices are far below 2^24: a float holds them exactly.
      for (int64_t k = 0; k < active; ++k) {
        outgoing[n].push_back(static_cast<float>(chosen[static_cast<size_t>(t * active + k)]));
      }
    }
  }
  const Messages from_nodes = across(call, std::move(outgoing));

  forward_.assign(static_cast<size_t>(g.nodes), std::vector<Rows>(static_cast<size_t>(g.per_node)));
  from_node_.clear();
  from_position_.assign(static_cast<size_t>(g.per_node), 0);
  std::vector<char> goes_on(static_cast<size_t>(g.per_node));
  for (size_t n = 0; n < from_nodes.size(); ++n) {
    from_node_.push_back(rows_of(from_nodes[n], width));
    for (int64_t row = 0; row < from_node_[n]; ++row) {
      const float* experts = from_nodes[n].data() + (row + 1) * width - active;
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
  const Messages arrived = within(call, forward(from_nodes, width), second_ready(call));

  for (size_t p = 0; p < arrived.size(); ++p) from_position_[p] = rows_of(arrived[p], width);
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
  Messages outgoing(to_node_.size());
  for (size_t n = 0; n < outgoing.size(); ++n) {
    outgoing[n].reserve(to_node_[n].size() * static_cast<size_t>(width));
    for (const int32_t t : to_node_[n]) append_row(outgoing[n], x.data() + t * width, width);
  }
  const Messages from_nodes = across(call, std::move(outgoing));
  return stacked(within(call, forward(from_nodes, width), second_ready(call)), width, call.pool);
}

Tensor Exchange::reduce(const ExchangeCall& call, const Tensor& partial) const {
  const int64_t width = partial.columns();
  Messages back(from_position_.size());
  const float* at = partial.data();
  for (size_t p = 0; p < back.size(); ++p) {
    const int64_t size = from_position_[p] * width;
    back[p].assign(at, at + size);
    at += size;
  }
  const bool alone = call.group.per_node == 1;  // then the phase across nodes is the first
  const Messages from_positions = within(call, std::move(back), alone ? Ready([] {}) : call.ready);

  // Sums of this node's ranks, per source node, in the order of positions.
  Messages sums;
  for (const int64_t rows : from_node_) {
    sums.emplace_back(static_cast<size_t>(rows * width), 0.0f);
  }
  for (size_t p = 0; p < from_positions.size(); ++p) {
    const float* row = from_positions[p].data();
    for (size_t n = 0; n < sums.size(); ++n) {
      for (const int32_t i : forward_[n][p]) {
        float* sum = sums[n].data() + i * width;
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
    const float* row = from_nodes[n].data();
    for (const int32_t t : to_node_[n]) {
      float* sum = out.data() + t * width;
      for (int64_t j = 0; j < width; ++j) sum[j] += row[j];
      row += width;
    }
  }
  return out;
}

}  // namespace rehearse
