#include "runtime/devices/cuda/gpu_lanes.h"

#include <algorithm>

#include "base/errors.h"
#include "runtime/devices/cuda/gpu_exchange.h"
#include "runtime/memory/shard.h"

namespace rehearse {
namespace {

size_t index_of(const Collective& c, int64_t rank) {
  const auto found = std::find(c.members.begin(), c.members.end(), rank);
  CHECK(found != c.members.end()) << "rank " << rank << " is not of the group";
  return static_cast<size_t>(found - c.members.begin());
}

kernels::GpuSumMembers::Of summed_as(DType type) {
  using Of = kernels::GpuSumMembers::Of;
  switch (type) {
    case DType::kFp32:
      return Of::kFp32;
    case DType::kBf16:
      return Of::kBf16;
    case DType::kFp64:
      return Of::kFp64;
    case DType::kInt64:
      return Of::kInt64;
    default:
      CHECK(false) << "a sum of " << to_string(Extent{type, 1, 1});
  }
  return Of::kFp32;
}

// A member's array in a collective: its own shard is summed, or gathered, or both.
struct Shared : GroupPart {
  Shared(const Array& a, size_t i, size_t n, bool sums_, bool gathers_)
      : data(a), index(i), members(n), sums(sums_), gathers(gathers_) {}
  Array data;
  size_t index, members;
  bool sums, gathers;

  // Of member m: nothing, where there are more members than parts.
  Array shard(const Array& of, size_t m) const {
    const Shard s =
        shard_of(shard_units(of.extent), static_cast<int64_t>(m), static_cast<int64_t>(members));
    return part_of(of, s.begin, s.end - s.begin);
  }
  int stages() const override { return (sums ? 1 : 0) + (gathers ? 1 : 0); }
  // What others read, or wrote, last is not touched: a shard is its member's alone while it sums.
  void stage(int s, Gpu& card, std::span<const std::unique_ptr<GroupPart>> all) override {
    const auto theirs = [&](size_t m) -> const Array& {
      return dynamic_cast<const Shared&>(*all[m]).data;
    };
    if (sums && s == 0) {
      kernels::GpuSumMembers call;
      const Array own = shard(data, index);
      call.of = summed_as(data.extent.type);
      call.members = static_cast<int>(members);
      for (size_t m = 0; m < members; ++m) call.x[m] = shard(theirs(m), index).data;
      call.y = own.data;
      call.elements = own.extent.size();
      card.launch(
          [call, f = card.kernels.sum_members](kernels::Stream stream) { f(call, stream); });
      return;
    }
    for (size_t m = 0; m < members; ++m) {
      if (m == index) continue;
      const Array from = shard(theirs(m), m), to = shard(data, m);
      if (from.extent.size() > 0) card.copy(from.data, to.data, from.extent.buffer_bytes());
    }
  }
};

// A few values that every member sums for itself.
struct Totals : GroupPart {
  Totals(const Array& v, Tensor s) : values(v), summed(std::move(s)) {}
  Array values;
  Tensor summed;
  int stages() const override { return 2; }
  // Behind the first stage nobody reads another's values.
  bool waits_for(int s, size_t /*member*/) const override { return s < 2; }
  void stage(int s, Gpu& card, std::span<const std::unique_ptr<GroupPart>> all) override {
    if (s == 1) {
      card.copy(summed.array().data, values.data, values.extent.buffer_bytes());
      return;
    }
    kernels::GpuSumMembers call;
    call.of = summed_as(values.extent.type);
    call.members = static_cast<int>(all.size());
    for (size_t m = 0; m < all.size(); ++m) {
      call.x[m] = dynamic_cast<const Totals&>(*all[m]).values.data;
    }
    call.y = summed.array().data;
    call.elements = values.extent.size();
    card.launch([call, f = card.kernels.sum_members](kernels::Stream stream) { f(call, stream); });
  }
};

}  // namespace

// --- pipelines

// In a buffer of the sender's, which the receiver's lane gives back.
void GpuLanes::send(int64_t from, int64_t to, uint64_t tag, const ConstArray& data) {
  Tensor message(ranks_[static_cast<size_t>(from)].pool,
                 data.extent.rows,
                 data.extent.columns,
                 data.extent.type);
  gpu_.copy(data.data, message.array().data, data.extent.buffer_bytes());
  under_way_[{from, to, tag}].push_back(std::move(message));
}

void GpuLanes::recv(
    int64_t from, int64_t to, uint64_t tag, const Array& data, const Ready& /*ready*/) {
  const auto sent = under_way_.find({from, to, tag});
  if (sent == under_way_.end()) throw ScheduleError("a message is taken before it is sent");
  const Tensor message = std::move(sent->second.front());
  sent->second.pop_front();
  if (sent->second.empty()) under_way_.erase(sent);
  CHECK(message.extent() == data.extent)
      << "a message of " << to_string(message.extent()) << ", expected " << to_string(data.extent);
  gpu_.copy(message.array().data, data.data, data.extent.buffer_bytes());
}

// --- collectives

void GpuLanes::together(const Collective& c, int64_t rank, std::unique_ptr<GroupPart> part) {
  CHECK(c.members.size() <= kernels::kMostMembers)
      << c.members.size() << " ranks of one card in a collective";
  groups_.join(c.members.size(), index_of(c, rank), c.members.front(), c.key, std::move(part));
}

void GpuLanes::reduce_scatter(const Collective& c, int64_t rank, const Array& data, const Ready&) {
  if (c.members.size() == 1) return;
  together(
      c, rank, std::make_unique<Shared>(data, index_of(c, rank), c.members.size(), true, false));
}
void GpuLanes::all_gather(const Collective& c, int64_t rank, const Array& data, const Ready&) {
  if (c.members.size() == 1) return;
  together(
      c, rank, std::make_unique<Shared>(data, index_of(c, rank), c.members.size(), false, true));
}
void GpuLanes::all_reduce(const Collective& c, int64_t rank, const Array& data, const Ready&) {
  if (c.members.size() == 1) return;
  together(
      c, rank, std::make_unique<Shared>(data, index_of(c, rank), c.members.size(), true, true));
}
void GpuLanes::sum(const Collective& c, int64_t rank, const Array& values, const Ready&) {
  if (c.members.size() == 1) return;
  Tensor summed(ranks_[static_cast<size_t>(rank)].pool,
                values.extent.rows,
                values.extent.columns,
                values.extent.type);
  together(c, rank, std::make_unique<Totals>(values, std::move(summed)));
}

// --- exchanges of tokens

void GpuLanes::together(const ExchangeOp& call, std::unique_ptr<GroupPart> part) {
  const ExpertGroup& g = call.group;
  CHECK(g.nodes <= kernels::kMostPeers && g.per_node <= kernels::kMostPeers)
      << g.nodes << " nodes of " << g.per_node << " ranks on one card";
  groups_.join(
      g.ranks.size(), static_cast<size_t>(g.me), g.ranks.front(), call.key, std::move(part));
}

Arrived GpuLanes::dispatch(const ExchangeOp& call,
                           const ConstArray& x,
                           const ConstArray& slots,
                           const ConstArray& weights,
                           std::unique_ptr<Routes>& routes) {
  const Rank& rank =
      ranks_[static_cast<size_t>(call.group.ranks[static_cast<size_t>(call.group.me)])];
  GpuExchange exchange(gpu_, call, rank.traffic);
  auto made = std::make_unique<GpuRoutes>(
      call, x.extent.rows, rank.room.arrivals(x.extent.rows, call.group.size));
  Arrived arrived;
  together(call, exchange.dispatch(*made, x, slots, weights, arrived));
  routes = std::move(made);
  return arrived;
}

Tensor GpuLanes::spread(const ExchangeOp& call, const Routes& routes, const ConstArray& x) {
  const Rank& rank =
      ranks_[static_cast<size_t>(call.group.ranks[static_cast<size_t>(call.group.me)])];
  GpuExchange exchange(gpu_, call, rank.traffic);
  Tensor out;
  together(call, exchange.spread(dynamic_cast<const GpuRoutes&>(routes), x, out));
  return out;
}

Tensor GpuLanes::reduce(const ExchangeOp& call,
                        const Routes& routes,
                        const ConstArray& partial,
                        DType type,
                        int64_t exact) {
  const Rank& rank =
      ranks_[static_cast<size_t>(call.group.ranks[static_cast<size_t>(call.group.me)])];
  GpuExchange exchange(gpu_, call, rank.traffic);
  Tensor out;
  together(
      call,
      exchange.reduce(
          dynamic_cast<const GpuRoutes&>(routes), partial, {type == DType::kBf16, exact}, out));
  return out;
}

}  // namespace rehearse
