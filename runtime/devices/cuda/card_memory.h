#pragma once
// A rank's memory on a card: when there is no more, it is said what holds it and what would take
// less.

#include "plan/plan.h"
#include "runtime/devices/cuda/gpu/gpu.h"
#include "runtime/memory/buffer_pool.h"

namespace rehearse {

// Before anything is allocated: throws InputError where the plan's ranks, all on this card, need
// more than it has free.
void require_room(const Plan& plan, Gpu& gpu);

class CardMemory : public Memory {
 public:
  // All must outlive it.
  CardMemory(Gpu& gpu, const Plan& plan, int64_t rank) : gpu_(gpu), plan_(plan), rank_(rank) {}
  // Whose buffers lie in it.
  void set_pool(const BufferPool& pool) { pool_ = &pool; }

  bool on_host() const override { return gpu_.memory().on_host(); }
  // Throws InputError where the card has no more.
  std::byte* allocate(size_t bytes) override;
  void release(std::byte* memory) noexcept override;
  void read(const void* from, void* to, size_t bytes) const override {
    gpu_.memory().read(from, to, bytes);
  }
  void write(const void* from, void* to, size_t bytes) override {
    gpu_.memory().write(from, to, bytes);
  }
  void clear(void* at, size_t bytes) override { gpu_.memory().clear(at, bytes); }

 private:
  std::string no_more(size_t bytes) const;

  Gpu& gpu_;
  const Plan& plan_;
  const int64_t rank_;
  const BufferPool* pool_ = nullptr;
  std::map<std::byte*, size_t> held_;
  size_t held_bytes_ = 0;
};

}  // namespace rehearse
