#pragma once
// A card's lanes on its streams, of which there may be fewer, and lanes that can be held: what is
// asked of a held lane is put aside and handed on, in its order, when the lane is let go. For
// members of a group, whose common work is asked of their lanes when the last of them has come:
// what the others go on to ask stands behind it.

#include <map>
#include <utility>
#include <vector>

#include "base/errors.h"
#include "runtime/devices/cuda/gpu/gpu.h"

namespace rehearse {

class HeldLanes : public Gpu {
 public:
  // stream_of: every lane's stream.
  HeldLanes(std::unique_ptr<Gpu> card, std::vector<int32_t> stream_of)
      : Gpu(card->kernels), card_(std::move(card)), stream_of_(std::move(stream_of)) {}

  // The card on a lane's stream: what is asked of it directly passes what is put aside.
  Gpu& card_on(int32_t lane, const std::string& name) {
    card_->on(lane < 0 ? lane : stream_of_[static_cast<size_t>(lane)], name);
    return *card_;
  }
  const std::string& name() const { return name_; }  // of the work that is asked for

  void hold(int32_t lane) { held_[lane]; }
  void let_go(int32_t lane) {
    const auto found = held_.find(lane);
    CHECK(found != held_.end()) << "lane " << lane << " is not held";
    const std::vector<Asked> asked = std::move(found->second);
    held_.erase(found);
    for (const Asked& a : asked) {
      card_on(lane, a.name);
      a.ask();
    }
    on(lane_, name_);
  }

  void on(int32_t lane, const std::string& name) override {
    lane_ = lane;
    name_ = name;
    if (!held_.contains(lane)) card_on(lane, name);
  }
  void launch(Work work) override {
    ask([this, work = std::move(work)] { card_->launch(work); });
  }
  void copy(const void* from, void* to, size_t bytes) override {
    ask([=, this] { card_->copy(from, to, bytes); });
  }
  void clear(void* at, size_t bytes) override {
    ask([=, this] { card_->clear(at, bytes); });
  }
  void upload(const void* from, void* to, size_t bytes) override {
    if (!held_.contains(lane_)) return card_->upload(from, to, bytes);
    const auto* const begin = static_cast<const std::byte*>(from);
    ask([this, to, all = std::vector<std::byte>(begin, begin + bytes)] {
      card_->upload(all.data(), to, all.size());
    });
  }
  void download(const void* from, void* to, size_t bytes) override {
    ask([=, this] { card_->download(from, to, bytes); });
  }
  void taken(void* at, size_t bytes) override {
    ask([=, this] { card_->taken(at, bytes); });
  }
  void record(int64_t event) override {
    ask([=, this] { card_->record(event); });
  }
  void wait(int64_t event) override {
    ask([=, this] { card_->wait(event); });
  }

  Memory& memory() override { return card_->memory(); }
  MemorySize memory_size() override { return card_->memory_size(); }
  bool reached(int64_t event) override { return card_->reached(event); }
  void finish(const std::function<void()>& watch) override {
    if (!held_.empty()) {
      throw ScheduleError(held_.begin()->second.empty()
                              ? "a member of a group waits for others that never come"
                              : held_.begin()->second.front().name +
                                    " waits for members of its group that never come");
    }
    card_->finish(watch);
  }
  Duration time_of(int64_t event) override { return card_->time_of(event); }

 private:
  struct Asked {
    std::string name;
    std::function<void()> ask;
  };
  void ask(std::function<void()> f) {
    if (const auto found = held_.find(lane_); found != held_.end()) {
      found->second.push_back({name_, std::move(f)});
    } else {
      f();
    }
  }

  std::unique_ptr<Gpu> card_;
  std::vector<int32_t> stream_of_;
  int32_t lane_ = -1;
  std::string name_;
  std::map<int32_t, std::vector<Asked>> held_;  // by lane
};

}  // namespace rehearse
