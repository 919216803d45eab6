#include "runtime/communicators/exchange.h"

#include <algorithm>
#include <cstring>

#include "base/errors.h"
#include "kernels/convert/convert.h"

namespace rehearse {
namespace {

// A row of a message: values of one type, of scaled ones codes and then scales, then others that
// stay FP32. Wide, it is all FP32.
struct RowFormat {
  DType type = DType::kFp32;
  int64_t width = 0;
  int64_t exact = 0;

  int64_t wide() const { return width + exact; }
  int64_t scales_at() const {  // bytes; scales are aligned
    const int64_t codes = Extent{type, 1, width}.row_bytes();
    return is_scaled(type) ? (codes + 3) / 4 * 4 : codes;
  }
  int64_t exact_at() const { return scales_at() + Extent{type, 1, width}.tiles() * 4; }
  int64_t bytes() const { return exact_at() + exact * 4; }
  Message message(int64_t rows) const {
    const DType carrier = is_scaled(type) ? DType::kInt32 : type;
    return Message({carrier, rows, bytes() / element_bytes(carrier)});
  }
};

std::byte* row_of(Message& m, const RowFormat& f, int64_t row) {
  return static_cast<std::byte*>(m.array().data) + row * f.bytes();
}
const std::byte* row_of(const Message& m, const RowFormat& f, int64_t row) {
  return static_cast<const std::byte*>(m.array().data) + row * f.bytes();
}
std::byte* put(std::byte* at, const void* from, int64_t bytes) {
  std::memcpy(at, from, static_cast<size_t>(bytes));
  return at + bytes;
}

// The values of a row of an array, scales behind their codes, into a message; and out of one.
std::byte* put_values(const RowFormat& f, const ConstArray& x, int64_t row, std::byte* at) {
  const int64_t bytes = x.extent.row_bytes();
  std::memcpy(at, static_cast<const std::byte*>(x.data) + row * bytes, static_cast<size_t>(bytes));
  std::byte* scale = at + f.scales_at();
  for (int64_t t = 0; t < x.extent.tiles(); ++t) {
    scale = put(scale, x.scales + t * x.scale_stride + row, 4);
  }
  return at + f.exact_at();
}
void take_values(const RowFormat& f, const std::byte* from, const Array& x, int64_t row) {
  const int64_t bytes = x.extent.row_bytes();
  std::memcpy(static_cast<std::byte*>(x.data) + row * bytes, from, static_cast<size_t>(bytes));
  for (int64_t t = 0; t < x.extent.tiles(); ++t) {
    std::memcpy(x.scales + t * x.scale_stride + row, from + f.scales_at() + t * 4, 4);
  }
}

// A wide row into a message's, rounded; and added from one.
void pack(const RowFormat& f, const float* wide, std::byte* row) {
  if (f.type == DType::kFp32) {
    put(row, wide, f.bytes());
    return;
  }
  kernels::convert(f.width, wide, reinterpret_cast<kernels::Bf16*>(row));
  put(row + f.exact_at(), wide + f.width, f.exact * 4);
}
void add_row(const RowFormat& f, const std::byte* row, float* wide) {
  if (f.type == DType::kFp32) {
    const auto* values = reinterpret_cast<const float*>(row);
    for (int64_t j = 0; j < f.wide(); ++j) wide[j] += values[j];
    return;
  }
  const auto* values = reinterpret_cast<const kernels::Bf16*>(row);
  for (int64_t j = 0; j < f.width; ++j) wide[j] += kernels::to_float(values[j]);
  for (int64_t j = 0; j < f.exact; ++j) {  // behind an odd number of BF16 values: not aligned
    float exact;
    std::memcpy(&exact, row + f.exact_at() + j * 4, 4);
    wide[f.width + j] += exact;
  }
}

// Of the phase across nodes, where it comes first, and of the one within: on a single node the
// former has nobody to wait for, and the latter tells when all have come.
Ready first_ready(const ExchangeOp& call) {
  return call.group.nodes > 1 ? call.ready : Ready([] {});
}
Ready second_ready(const ExchangeOp& call) {
  return call.group.nodes > 1 ? Ready([] {}) : call.ready;
}

int64_t rows_of(const std::vector<Message>& messages) {
  int64_t rows = 0;
  for (const Message& m : messages) rows += m.rows();
  return rows;
}

// The second phase's messages: per position of my node, its rows of every node's message.
std::vector<Message> forward(const std::vector<std::vector<std::vector<int32_t>>>& rows_to,
                             const RowFormat& f,
                             const std::vector<Message>& from_nodes) {
  std::vector<Message> outgoing;
  for (size_t p = 0; p < rows_to.front().size(); ++p) {
    int64_t rows = 0;
    for (const auto& of_node : rows_to) rows += static_cast<int64_t>(of_node[p].size());
    outgoing.push_back(f.message(rows));
    std::byte* at = row_of(outgoing.back(), f, 0);
    for (size_t n = 0; n < from_nodes.size(); ++n) {
      for (const int32_t row : rows_to[n][p]) {
        at = put(at, row_of(from_nodes[n], f, row), f.bytes());
      }
    }
  }
  return outgoing;
}

}  // namespace

std::vector<Message> Exchange::across(const ExchangeOp& call,
                                      std::vector<Message> outgoing,
                                      const Ready& ready) const {
  const std::vector<int64_t> peers = call.group.across_nodes();
  const int64_t me = call.group.ranks[static_cast<size_t>(call.group.me)];
  return communicator_.all_to_all({peers, call.key}, me, std::move(outgoing), ready);
}

std::vector<Message> Exchange::within(const ExchangeOp& call,
                                      std::vector<Message> outgoing,
                                      const Ready& ready) const {
  const std::vector<int64_t> peers = call.group.within_node();
  const int64_t me = call.group.ranks[static_cast<size_t>(call.group.me)];
  return communicator_.all_to_all({peers, call.key + 1}, me, std::move(outgoing), ready);
}

Arrived Exchange::dispatch(const ExchangeOp& call,
                           const ConstArray& x,
                           const ConstArray& chosen,
                           const ConstArray& weights) {
  const ExpertGroup& g = call.group;
  const int64_t active = weights.extent.columns;
  const RowFormat f{x.extent.type, x.extent.columns, 2 * active};
  const int32_t* const choices = chosen.int32();
  tokens_ = x.extent.rows;
  to_node_.assign(static_cast<size_t>(g.nodes), {});
  std::vector<char> goes(static_cast<size_t>(g.nodes));
  for (int64_t t = 0; t < tokens_; ++t) {
    std::fill(goes.begin(), goes.end(), 0);
    for (int64_t k = 0; k < active; ++k) {
      goes[static_cast<size_t>(g.node_of(g.holder(choices[t * active + k])))] = 1;
    }
    for (size_t n = 0; n < goes.size(); ++n) {
      if (goes[n]) to_node_[n].push_back(static_cast<int32_t>(t));
    }
  }
  std::vector<Message> outgoing;
  for (const RowList& tokens : to_node_) {
    outgoing.push_back(f.message(static_cast<int64_t>(tokens.size())));
    std::byte* at = row_of(outgoing.back(), f, 0);
    for (const int32_t t : tokens) {
      at = put_values(f, x, t, at);
      at = put(at, weights.fp32() + t * active, active * 4);
      at = put(at, choices + t * active, active * 4);
    }
  }
  const std::vector<Message> from_nodes = across(call, std::move(outgoing), first_ready(call));

  // A row's choices, behind its weights.
  std::vector<int32_t> slots(static_cast<size_t>(active));
  const auto read_choices = [&](const std::byte* row) {
    std::memcpy(slots.data(), row + f.bytes() - active * 4, static_cast<size_t>(active) * 4);
  };
  forward_.assign(static_cast<size_t>(g.nodes),
                  std::vector<RowList>(static_cast<size_t>(g.per_node)));
  from_node_.clear();
  from_position_.assign(static_cast<size_t>(g.per_node), 0);
  std::vector<char> goes_on(static_cast<size_t>(g.per_node));
  for (size_t n = 0; n < from_nodes.size(); ++n) {
    from_node_.push_back(from_nodes[n].rows());
    for (int64_t row = 0; row < from_node_[n]; ++row) {
      read_choices(row_of(from_nodes[n], f, row));
      std::fill(goes_on.begin(), goes_on.end(), 0);
      for (const int32_t slot : slots) {
        const int64_t holder = g.holder(slot);
        if (g.node_of(holder) == g.node_of(g.me)) {
          goes_on[static_cast<size_t>(g.position_of(holder))] = 1;
        }
      }
      for (size_t p = 0; p < goes_on.size(); ++p) {
        if (goes_on[p]) forward_[n][p].push_back(static_cast<int32_t>(row));
      }
    }
  }
  const std::vector<Message> arrived =
      within(call, forward(forward_, f, from_nodes), second_ready(call));

  const int64_t rows = rows_of(arrived);
  Arrived result{.x = Tensor(call.pool, rows, x.extent.columns, x.extent.type),
                 .slots = Tensor(call.pool, rows, active, DType::kInt32),
                 .weights = Tensor(call.pool, rows, active)};
  std::fill_n(result.slots.int32(), result.slots.size(), -1);
  const int64_t first_slot = g.me * g.experts_per_member;
  const Array to = result.x;
  int64_t i = 0;
  for (size_t p = 0; p < arrived.size(); ++p) {
    from_position_[p] = arrived[p].rows();
    for (int64_t r = 0; r < arrived[p].rows(); ++r, ++i) {
      const std::byte* const row = row_of(arrived[p], f, r);
      take_values(f, row, to, i);
      std::memcpy(result.weights.data() + i * active,
                  row + f.exact_at(),
                  static_cast<size_t>(active) * sizeof(float));
      read_choices(row);
      for (int64_t k = 0; k < active; ++k) {
        const int32_t slot = slots[static_cast<size_t>(k)];
        if (g.holder(slot) != g.me) continue;
        result.slots.int32()[i * active + k] = static_cast<int32_t>(slot - first_slot);
      }
    }
  }
  return result;
}

Tensor Exchange::spread(const ExchangeOp& call, const ConstArray& x) const {
  CHECK(x.extent.rows == tokens_) << x.extent.rows << " tokens, dispatched " << tokens_;
  const RowFormat f{x.extent.type, x.extent.columns};
  std::vector<Message> outgoing;
  for (const RowList& tokens : to_node_) {
    outgoing.push_back(f.message(static_cast<int64_t>(tokens.size())));
    std::byte* at = row_of(outgoing.back(), f, 0);
    for (const int32_t t : tokens) at = put_values(f, x, t, at);
  }
  const std::vector<Message> from_nodes = across(call, std::move(outgoing), first_ready(call));
  const std::vector<Message> arrived =
      within(call, forward(forward_, f, from_nodes), second_ready(call));
  Tensor all(call.pool, rows_of(arrived), f.width, f.type);
  const Array to = all;
  int64_t i = 0;
  for (const Message& m : arrived) {
    for (int64_t r = 0; r < m.rows(); ++r, ++i) take_values(f, row_of(m, f, r), to, i);
  }
  return all;
}

Tensor Exchange::reduce(const ExchangeOp& call,
                        const ConstArray& partial,
                        DType type,
                        int64_t exact) const {
  CHECK(!is_scaled(type)) << "sums have no scales";
  const RowFormat f{type, partial.extent.columns - exact, exact};
  std::vector<Message> back;
  const float* wide = partial.fp32();
  for (const int64_t rows : from_position_) {
    back.push_back(f.message(rows));
    for (int64_t r = 0; r < rows; ++r, wide += f.wide()) {
      pack(f, wide, row_of(back.back(), f, r));
    }
  }
  const bool alone = call.group.per_node == 1;  // then the phase across nodes is the first
  const std::vector<Message> from_positions =
      within(call, std::move(back), alone ? Ready([] {}) : call.ready);

  // Sums of this node's ranks, per source node, in the order of positions: made where they are
  // sent from, unless they are rounded then.
  std::vector<Message> sums;
  std::vector<Tensor> scratch(from_node_.size());
  std::vector<float*> wide_sums;
  for (size_t n = 0; n < from_node_.size(); ++n) {
    sums.push_back(f.message(from_node_[n]));
    if (type == DType::kFp32) {
      wide_sums.push_back(sums[n].fp32());
    } else {
      scratch[n] = Tensor(call.pool, from_node_[n], f.wide());
      wide_sums.push_back(scratch[n].data());
    }
    std::fill_n(wide_sums[n], from_node_[n] * f.wide(), 0.0f);
  }
  for (size_t p = 0; p < from_positions.size(); ++p) {
    int64_t row = 0;
    for (size_t n = 0; n < sums.size(); ++n) {
      for (const int32_t i : forward_[n][p]) {
        add_row(f, row_of(from_positions[p], f, row++), wide_sums[n] + i * f.wide());
      }
    }
  }
  for (size_t n = 0; n < sums.size(); ++n) {
    if (scratch[n].empty()) continue;
    for (int64_t r = 0; r < from_node_[n]; ++r) {
      pack(f, wide_sums[n] + r * f.wide(), row_of(sums[n], f, r));
    }
    scratch[n].release();
  }
  const std::vector<Message> from_nodes =
      across(call, std::move(sums), alone ? call.ready : Ready([] {}));

  Tensor out(call.pool, tokens_, f.wide());
  out.fill(0);
  for (size_t n = 0; n < from_nodes.size(); ++n) {
    int64_t row = 0;
    for (const int32_t t : to_node_[n]) {
      add_row(f, row_of(from_nodes[n], f, row++), out.data() + t * f.wide());
    }
  }
  return out;
}

}  // namespace rehearse
