#include "runtime/devices/cuda/gpu_device.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/errors.h"
#include "runtime/devices/cuda/card_memory.h"
#include "runtime/memory/flat_values.h"

namespace rehearse {
namespace {

// An op's moments as events of the card's: its lane has come to it, its peers too, it has ended.
int64_t begin_of(OpId id) {
  return 3 * id;
}
int64_t ready_of(OpId id) {
  return 3 * id + 1;
}
int64_t end_of(OpId id) {
  return 3 * id + 2;
}

std::unique_ptr<Gpu> with_room(const Plan& plan, std::unique_ptr<Gpu> gpu) {
  require_room(plan, *gpu);
  return gpu;
}

}  // namespace

// Who may use a buffer next, as waits have it.
class GpuDevice::Order : public LaneOrder {
 public:
  Order(int32_t lanes, Gpu& gpu, bool early_free)
      : LaneOrder(lanes), gpu_(gpu), early_free_(early_free) {}
  LaneEvent last_use() const override { return early_free_ ? LaneEvent() : now(); }
  void taken(std::byte* data, size_t bytes) override { gpu_.taken(data, bytes); }

 private:
  Gpu& gpu_;
  const bool early_free_;
};

struct GpuDevice::Rank {
  Rank(GpuDevice& d, const Plan& plan, int64_t rank)
      : memory(d.gpu_, plan, rank),
        pool(memory, d.order_.get()),
        compute(pool, d.gpu_, d.rope_, d.room_),
        traffic(DType::kInt64, plan.layout.world(), memory) {
    memory.set_pool(pool);
  }
  CardMemory memory;
  BufferPool pool;
  GpuCompute compute;
  FlatValues traffic;  // bytes of tokens that came, by rank
};

GpuDevice::GpuDevice(const Plan& plan,
                     Communicator& communicator,
                     std::unique_ptr<Gpu> gpu,
                     const kernels::RopeTable& rope,
                     GpuOptions options)
    : communicator_(communicator),
      most_ranks_(plan.layout.ep),
      room_(plan),
      gpu_(with_room(plan, std::move(gpu)), streams_of(plan, options.streams)),
      order_(std::make_unique<Order>(lanes_of(plan), gpu_, options.early_free)),
      rope_(gpu_, rope),
      groups_(gpu_,
              *order_,
              [this](Gpu& card, int32_t lane) {
                const OpId id = current_[static_cast<size_t>(lane)];
                card.record(ready_of(id));
                waited_.insert(id);
              }),
      lanes_(gpu_, *order_, groups_, lane_ranks_),
      current_(static_cast<size_t>(lanes_of(plan))) {
  if (options.room) room_.share = *options.room;
  for (int64_t r = 0; r < plan.layout.world(); ++r) {
    Rank& rank = ranks_.emplace_back(*this, plan, r);
    lane_ranks_.push_back({.pool = rank.pool, .traffic = rank.traffic.array(), .room = room_});
  }
}

GpuDevice::~GpuDevice() = default;

std::vector<int32_t> GpuDevice::streams_of(const Plan& plan, int32_t most) {
  const auto world = static_cast<int32_t>(plan.layout.world());
  // Lanes of a rank that may be used at all; what computes and what exchanges tokens run beside
  // each other whatever is shared.
  std::vector<Lane> used = {Lane::kCompute, Lane::kAllToAll, Lane::kData};
  if (plan.layout.pp > 1) {
    used.insert(used.end(), {Lane::kSend0, Lane::kSend1, Lane::kRecv0, Lane::kRecv1});
  }
  const auto each = static_cast<int32_t>(used.size());
  std::vector<int32_t> streams(static_cast<size_t>(lanes_of(plan)), 0);
  for (int32_t r = 0; r < world; ++r) {
    for (int32_t u = 0; u < each; ++u) {
      const int32_t own = world * each <= most ? r * each + u  // a stream each
                          : world * 3 <= most
                              ? r * 3 + std::min(u, 2)  // all but these two share one
                              : (r * 2 + std::min(u, 1)) % most;
      streams[static_cast<size_t>(r * kLanes) + static_cast<size_t>(used[static_cast<size_t>(u)])] =
          own;
    }
  }
  return streams;
}

BufferPool& GpuDevice::pool(int64_t rank) {
  return ranks_[static_cast<size_t>(rank)].pool;
}
const Compute& GpuDevice::compute(int64_t rank) {
  return ranks_[static_cast<size_t>(rank)].compute;
}

int32_t GpuDevice::lane_of(const OpAt& at, int64_t rank) {
  return static_cast<int32_t>(rank * kLanes) + static_cast<int32_t>(at.op.lane);
}

void GpuDevice::on(const OpAt& at, int64_t rank) {
  const int32_t lane = lane_of(at, rank);
  if (order_->current() == lane) return;
  order_->set_current(lane);
  gpu_.on(lane, fmt::format("rank {}, {}", rank, to_string(at.op)));
}

void GpuDevice::wait(const OpAt& at, int64_t rank, OpId dependency) {
  on(at, rank);
  gpu_.wait(end_of(dependency));
  order_->wait(ends_.at(dependency));
}

void GpuDevice::begin(const OpAt& at, int64_t rank) {
  on(at, rank);
  gpu_.record(begin_of(at.id));
  order_->advance();
  current_[static_cast<size_t>(lane_of(at, rank))] = at.id;
  const std::lock_guard lock(mutex_);
  spans_.push_back(at.id);
}

void GpuDevice::end(const OpAt& at, int64_t, const std::function<MemberLoad()>&) {
  gpu_.record(end_of(at.id));
  ends_[at.id] = order_->snapshot();
  order_->advance();
  order_->set_current(-1);
  gpu_.on(-1, "");
}

void GpuDevice::end_step(Timeline& timeline) {
  gpu_.finish([this] {
    if (aborted_) throw RunAborted();
  });
  order_->all_ended();
  ends_.clear();
  for (const OpId id : spans_) {
    const int64_t begin = waited_.contains(id) ? ready_of(id) : begin_of(id);
    timeline.spans[static_cast<size_t>(id)] = {gpu_.time_of(begin), gpu_.time_of(end_of(id))};
  }
}

void GpuDevice::begin_step() {
  waited_.clear();
  for (Rank& rank : ranks_) rank.traffic.clear();
  const std::lock_guard lock(mutex_);
  spans_.clear();
}

int64_t GpuDevice::ended() {
  const std::lock_guard lock(mutex_);
  return std::count_if(
      spans_.begin(), spans_.end(), [this](OpId id) { return gpu_.reached(end_of(id)); });
}

bool GpuDevice::has_begun(OpId id) {
  return gpu_.reached(begin_of(id));
}

std::vector<OpId> GpuDevice::under_way() {
  const std::lock_guard lock(mutex_);
  std::vector<OpId> ops;
  std::copy_if(spans_.begin(), spans_.end(), std::back_inserter(ops), [this](OpId id) {
    return gpu_.reached(begin_of(id)) && !gpu_.reached(end_of(id));
  });
  return ops;
}

void GpuDevice::abort() {
  aborted_ = true;
  communicator_.abort();
}

void GpuDevice::make_room() {
  const auto all = static_cast<double>(most_ranks_);
  CHECK(room_.share < all) << "there is room for all choices";
  room_.share = std::min(all, 2 * room_.share);
}

int64_t GpuDevice::traffic(int64_t from, int64_t to) const {
  return ranks_[static_cast<size_t>(to)].traffic.values<int64_t>()[static_cast<size_t>(from)];
}

}  // namespace rehearse
