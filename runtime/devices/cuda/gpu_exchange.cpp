#include "runtime/devices/cuda/gpu_exchange.h"

#include "base/errors.h"
#include "base/integers.h"

namespace rehearse {
namespace {

constexpr int64_t kTile = kernels::kRowsPadded;

HopMap map_of(BufferPool& pool, int64_t tokens, int64_t parts) {
  return {.rows = Tensor(pool, parts, 1, DType::kInt32),
          .token_of_row = Tensor(pool, parts * ceil_div(tokens, kTile) * kTile, 1, DType::kInt32),
          .row_of = Tensor(pool, tokens, parts, DType::kInt32)};
}

// Scratch of making a map.
struct MapScratch {
  MapScratch(BufferPool& pool, const HopMap& map)
      : goes(pool, map.row_of.rows(), map.row_of.columns(), DType::kInt32),
        choice_of_row(pool, map.token_of_row.rows(), 1, DType::kInt32),
        starts(
            pool, kernels::map_chunks(map.row_of.rows()) + 1, map.row_of.columns(), DType::kInt32) {
  }
  Tensor goes, choice_of_row, starts;
};

// Which of `tokens` with these slots go to which part of a hop.
void make_map(Gpu& gpu,
              kernels::GpuDestinations to,
              const Array& overflowed,
              HopMap& map,
              MapScratch& scratch) {
  to.goes = scratch.goes.int32();
  to.tokens = map.row_of.rows();
  to.parts = map.row_of.columns();
  gpu.launch([to, f = gpu.kernels.destinations](kernels::Stream s) { f(to, s); });
  const kernels::GpuRowMap rows{.slots = scratch.goes.int32(),
                                .expert_rows = map.rows.int32(),
                                .token_of_row = map.token_of_row.int32(),
                                .choice_of_row = scratch.choice_of_row.int32(),
                                .row_of = map.row_of.int32(),
                                .overflowed = overflowed.int64(),
                                .starts = scratch.starts.int32(),
                                .tokens = to.tokens,
                                .active = to.parts,
                                .experts = to.parts,
                                .capacity = map.token_of_row.rows()};
  gpu.launch([rows, f = gpu.kernels.map_rows](kernels::Stream s) { f(rows, s); });
}

int element_bytes_of(DType type) {
  CHECK(type == DType::kFp32 || type == DType::kBf16 || type == DType::kFp8)
      << "tokens of " << to_string(Extent{type, 1, 1}) << " between ranks of a card";
  return static_cast<int>(element_bytes(type));
}
// Of a row as it travels: codes with their scales behind them, aligned.
int64_t row_bytes_of(const Extent& x) {
  const int64_t elements = x.row_bytes();
  return is_scaled(x.type) ? ceil_div(elements, int64_t{4}) * 4 + x.tiles() * 4 : elements;
}

// Where a rank stands in its group, and what all its parts have in common.
struct Hops : GroupPart {
  Hops(const ExchangeOp& call, const Array& traffic_)
      : nodes(call.group.nodes),
        per_node(call.group.per_node),
        node(call.group.node_of(call.group.me)),
        position(call.group.position_of(call.group.me)),
        rank(static_cast<int32_t>(call.group.ranks[static_cast<size_t>(call.group.me)])),
        traffic(traffic_) {}
  int64_t nodes, per_node, node, position;
  int32_t rank;
  Array traffic;

  bool two_hops() const { return nodes > 1; }
  int stages() const override { return two_hops() ? 2 : 1; }
  // A stage is one hop, by `across` or within the node.
  bool is_across(int s) const { return two_hops() && s == first_across(); }
  virtual int first_across() const { return 0; }  // the stage that goes across nodes
  bool waits_for(int s, size_t member) const override {
    const auto m = static_cast<int64_t>(member);
    const bool in_node = m / per_node == node;
    const bool in_position = m % per_node == position;
    // At the end all that have read this one's arrays.
    if (s == stages()) return in_node || (two_hops() && in_position);
    return is_across(s) ? in_position : in_node;
  }
  int64_t peers(bool across) const { return across ? nodes : per_node; }
  int64_t own_place(bool across) const { return across ? node : position; }
  size_t member(bool across, int64_t peer) const {
    return static_cast<size_t>(across ? peer * per_node + position : node * per_node + peer);
  }
};

// Tokens out: dispatch, and spread, which has no slots.
struct Out : Hops {
  using Hops::Hops;
  // What peers read: at the first hop the tokens, at the second what passes here.
  struct Rows {
    const HopMap* map = nullptr;
    ConstArray x, weights, slots;
  };
  Rows tokens, passing;
  Array to_x, to_weights, to_slots;  // what ends here
  Array hop_x, hop_weights, hop_slots;
  Array overflowed;
  int32_t own_slots = 0;
  HopMap* made = nullptr;  // of what passes here, once it is there
  std::unique_ptr<MapScratch> scratch;
  Tensor buffers[3];  // of what passes here
  int64_t row_bytes = 0;
  int64_t me = 0;  // member

  void stage(int s, Gpu& card, std::span<const std::unique_ptr<GroupPart>> all) override {
    const bool across = is_across(s);
    kernels::GpuGather g;
    g.peers = static_cast<int>(peers(across));
    g.part = static_cast<int>(own_place(across));
    for (int64_t p = 0; p < peers(across); ++p) {
      const Out& peer = dynamic_cast<const Out&>(*all[member(across, p)]);
      const Rows& rows = across || !two_hops() ? peer.tokens : peer.passing;
      g.peer[p] = {.rows = rows.map->rows.int32(),
                   .token_of_row = rows.map->token_of_row.int32(),
                   .x = rows.x.data,
                   .x_scales = rows.x.scales,
                   .weights = rows.weights.data == nullptr ? nullptr : rows.weights.fp32(),
                   .slots = rows.slots.data == nullptr ? nullptr : rows.slots.int32(),
                   .rank = peer.rank};
    }
    const Array& x = across ? hop_x : to_x;
    const Array& slots = across ? hop_slots : to_slots;
    g.element_bytes = element_bytes_of(x.extent.type);
    g.x = x.data;
    g.x_scales = x.scales;
    g.x_scale_stride = x.scale_stride;
    g.from_scale_stride = (across || !two_hops() ? tokens : passing).x.scale_stride;
    g.width = x.extent.columns;
    g.capacity = x.extent.rows;
    if (slots.data != nullptr) {
      g.slots = slots.int32();
      g.weights = (across ? hop_weights : to_weights).fp32();
      g.active = slots.extent.columns;
    }
    if (!across && slots.data != nullptr) {
      g.own_slots = own_slots;
      g.first_slot = static_cast<int32_t>(me) * own_slots;
      g.overflowed = overflowed.int64();
    }
    g.traffic = {traffic.int64(), row_bytes};
    card.launch([g, f = card.kernels.gather](kernels::Stream stream) { f(g, stream); });
    if (across && made != nullptr) {
      make_map(card,
               {.slots = hop_slots.int32(),
                .active = hop_slots.extent.columns,
                .per_member = own_slots,
                .first_member = static_cast<int32_t>(node * per_node),
                .members_per_part = 1},
               overflowed,
               *made,
               *scratch);
    }
  }
};

// Sums back.
struct Back : Hops {
  using Hops::Hops;
  int first_across() const override { return 1; }
  const GpuRoutes* routes = nullptr;
  ConstArray partial;
  Tensor passing;  // sums of this node's ranks, for all nodes
  Array out;
  GpuExchange::Sums sums;

  void stage(int s, Gpu& card, std::span<const std::unique_ptr<GroupPart>> all) override {
    const bool across = is_across(s);
    const HopMap& map = across ? routes->across : routes->within;
    kernels::GpuSumParts call;
    call.peers = static_cast<int>(peers(across));
    call.me = static_cast<int>(own_place(across));
    for (int64_t p = 0; p < peers(across); ++p) {
      const Back& peer = dynamic_cast<const Back&>(*all[member(across, p)]);
      const HopMap& theirs = across ? peer.routes->across : peer.routes->within;
      call.peer[p] = {.values = across ? peer.passing.data() : peer.partial.fp32(),
                      .rows = theirs.rows.int32(),
                      .rank = peer.rank};
    }
    const bool last = across || !two_hops();
    call.row_of = map.row_of.int32();
    call.y = last ? out.fp32() : passing.data();
    call.tokens = map.row_of.rows();
    call.width = out.extent.columns;
    call.exact = sums.exact;
    call.capacity = across ? routes->hop : routes->arrivals;
    call.round_in = call.round_out = sums.in_bf16;
    if (across) call.round_out = false;
    const int64_t element = sums.in_bf16 ? 2 : 4;
    call.traffic = {traffic.int64(), (call.width - sums.exact) * element + sums.exact * 4};
    card.launch([call, f = card.kernels.sum_parts](kernels::Stream stream) { f(call, stream); });
  }
};

}  // namespace

GpuRoutes::GpuRoutes(const ExchangeOp& call, int64_t t, int64_t a)
    : tokens(t), hop(call.group.nodes > 1 ? call.group.nodes * t : t), arrivals(a) {
  if (call.group.nodes > 1) across = map_of(call.pool, tokens, call.group.nodes);
  within = map_of(call.pool, hop, call.group.per_node);
}

std::unique_ptr<GroupPart> GpuExchange::dispatch(GpuRoutes& routes,
                                                 const ConstArray& x,
                                                 const ConstArray& slots,
                                                 const ConstArray& weights,
                                                 Arrived& arrived) {
  const ExpertGroup& g = call_.group;
  const int64_t active = slots.extent.columns;
  const int64_t width = x.extent.columns;
  arrived = {.x = Tensor(call_.pool, routes.arrivals, width, x.extent.type),
             .slots = Tensor(call_.pool, routes.arrivals, active, DType::kInt32),
             .weights = Tensor(call_.pool, routes.arrivals, active)};
  auto part = std::make_unique<Out>(call_, traffic_);
  part->overflowed = call_.overflowed;
  part->own_slots = static_cast<int32_t>(g.experts_per_member);
  part->me = g.me;
  part->row_bytes = row_bytes_of(x.extent) + 2 * active * 4;
  part->to_x = arrived.x;
  part->to_weights = arrived.weights;
  part->to_slots = arrived.slots;
  part->scratch = std::make_unique<MapScratch>(call_.pool, routes.within);
  if (!part->two_hops()) {
    make_map(gpu_,
             {.slots = slots.int32(), .active = active, .per_member = part->own_slots},
             call_.overflowed,
             routes.within,
             *part->scratch);
    part->tokens = {&routes.within, x, weights, slots};
    return part;
  }
  MapScratch scratch(call_.pool, routes.across);
  make_map(gpu_,
           {.slots = slots.int32(),
            .active = active,
            .per_member = part->own_slots,
            .members_per_part = static_cast<int32_t>(g.per_node)},
           call_.overflowed,
           routes.across,
           scratch);
  part->buffers[0] = Tensor(call_.pool, routes.hop, width, x.extent.type);
  part->buffers[1] = Tensor(call_.pool, routes.hop, active);
  part->buffers[2] = Tensor(call_.pool, routes.hop, active, DType::kInt32);
  part->hop_x = part->buffers[0];
  part->hop_weights = part->buffers[1];
  part->hop_slots = part->buffers[2];
  part->tokens = {&routes.across, x, weights, slots};
  part->passing = {&routes.within, part->hop_x, part->hop_weights, part->hop_slots};
  part->made = &routes.within;
  return part;
}

std::unique_ptr<GroupPart> GpuExchange::spread(const GpuRoutes& routes,
                                               const ConstArray& x,
                                               Tensor& out) {
  CHECK(x.extent.rows == routes.tokens) << x.extent.rows << " tokens, dispatched " << routes.tokens;
  out = Tensor(call_.pool, routes.arrivals, x.extent.columns, x.extent.type);
  auto part = std::make_unique<Out>(call_, traffic_);
  part->row_bytes = row_bytes_of(x.extent);
  part->to_x = out;
  part->me = call_.group.me;
  if (!part->two_hops()) {
    part->tokens = {&routes.within, x, {}, {}};
    return part;
  }
  part->buffers[0] = Tensor(call_.pool, routes.hop, x.extent.columns, x.extent.type);
  part->hop_x = part->buffers[0];
  part->tokens = {&routes.across, x, {}, {}};
  part->passing = {&routes.within, part->hop_x, {}, {}};
  return part;
}

std::unique_ptr<GroupPart> GpuExchange::reduce(const GpuRoutes& routes,
                                               const ConstArray& partial,
                                               const Sums& sums,
                                               Tensor& out) {
  out = Tensor(call_.pool, routes.tokens, partial.extent.columns);
  auto part = std::make_unique<Back>(call_, traffic_);
  part->routes = &routes;
  part->partial = partial;
  part->out = out;
  part->sums = sums;
  if (part->two_hops()) part->passing = Tensor(call_.pool, routes.hop, partial.extent.columns);
  return part;
}

}  // namespace rehearse
