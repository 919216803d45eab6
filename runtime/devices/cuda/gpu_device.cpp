#include "runtime/devices/cuda/gpu_device.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/errors.h"
#include "runtime/devices/cuda/card_memory.h"

namespace rehearse {
namespace {

// An op's two moments as events of the card's.
int64_t begin_of(OpId id) {
  return 2 * id;
}
int64_t end_of(OpId id) {
  return 2 * id + 1;
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
      : memory(*d.gpu_, plan, rank),
        pool(memory, d.order_.get()),
        compute(pool, *d.gpu_, d.rope_, d.room_) {
    memory.set_pool(pool);
  }
  CardMemory memory;
  BufferPool pool;
  GpuCompute compute;
};

GpuDevice::GpuDevice(const Plan& plan,
                     Communicator& communicator,
                     std::unique_ptr<Gpu> gpu,
                     const kernels::RopeTable& rope,
                     GpuOptions options)
    : communicator_(communicator),
      room_(options.room),
      gpu_(std::move(gpu)),
      order_(std::make_unique<Order>(lanes_of(plan), *gpu_, options.early_free)),
      rope_(*gpu_, rope) {
  CHECK(plan.layout.world() == 1) << plan.layout.world() << " ranks on a card of one";
  for (int64_t r = 0; r < plan.layout.world(); ++r) ranks_.emplace_back(*this, plan, r);
}

GpuDevice::~GpuDevice() = default;

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
  gpu_->on(lane, fmt::format("rank {}, {}", rank, to_string(at.op)));
}

void GpuDevice::wait(const OpAt& at, int64_t rank, OpId dependency) {
  on(at, rank);
  gpu_->wait(end_of(dependency));
  order_->wait(ends_.at(dependency));
}

void GpuDevice::begin(const OpAt& at, int64_t rank) {
  on(at, rank);
  gpu_->record(begin_of(at.id));
  order_->advance();
  const std::lock_guard lock(mutex_);
  spans_.push_back(at.id);
}

void GpuDevice::end(const OpAt& at, int64_t, const std::function<MemberLoad()>&) {
  gpu_->record(end_of(at.id));
  ends_[at.id] = order_->snapshot();
  order_->advance();
  order_->set_current(-1);
  gpu_->on(-1, "");
}

void GpuDevice::end_step(Timeline& timeline) {
  gpu_->finish([this] {
    if (aborted_) throw RunAborted();
  });
  order_->all_ended();
  ends_.clear();
  for (const OpId id : spans_) {
    timeline.spans[static_cast<size_t>(id)] = {gpu_->time_of(begin_of(id)),
                                               gpu_->time_of(end_of(id))};
  }
}

void GpuDevice::begin_step() {
  const std::lock_guard lock(mutex_);
  spans_.clear();
}

int64_t GpuDevice::ended() {
  const std::lock_guard lock(mutex_);
  return std::count_if(
      spans_.begin(), spans_.end(), [this](OpId id) { return gpu_->reached(end_of(id)); });
}

std::vector<OpId> GpuDevice::under_way() {
  const std::lock_guard lock(mutex_);
  std::vector<OpId> ops;
  std::copy_if(spans_.begin(), spans_.end(), std::back_inserter(ops), [this](OpId id) {
    return gpu_->reached(begin_of(id)) && !gpu_->reached(end_of(id));
  });
  return ops;
}

void GpuDevice::abort() {
  aborted_ = true;
  communicator_.abort();
}

void GpuDevice::make_room() {
  CHECK(room_ < 1) << "there is room for all choices";
  room_ = std::min(1.0, 2 * room_);
}

}  // namespace rehearse
