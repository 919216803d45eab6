#include "kernels/ptx/imitation/global_memory.h"

#include <algorithm>
#include <cstring>

#include "kernels/ptx/imitation/shared_memory.h"

namespace rehearse::kernels::imitation {
namespace {

constexpr size_t kAlign = 256;
constexpr uint64_t kAdded = 1;
constexpr uint64_t kForgotten = 2;  // nobody's since a launch
constexpr int kLaunchShift = 32;
constexpr uint64_t kManyClusters = 0xffffffff;

uint64_t launch_of(uint64_t stamp) {
  return stamp >> kLaunchShift;
}
bool same_launch(uint64_t a, uint64_t b) {
  return launch_of(a) == launch_of(b);
}

}  // namespace

GlobalMemory& GlobalMemory::instance() {
  static GlobalMemory memory;
  return memory;
}

void* GlobalMemory::allocate(size_t bytes) {
  Allocation a;
  a.storage = std::make_unique_for_overwrite<uint8_t[]>(bytes + kAlign);
  const auto address = reinterpret_cast<uintptr_t>(a.storage.get());
  a.begin = a.storage.get() + (kAlign - address % kAlign) % kAlign;
  a.size = bytes;
  a.pages.resize((bytes + kPage - 1) / kPage);
  uint8_t* begin = a.begin;
  allocations_[reinterpret_cast<uintptr_t>(begin)] = std::move(a);
  return begin;
}

void GlobalMemory::release(void* p) {
  last_ = nullptr;
  allocations_.erase(reinterpret_cast<uintptr_t>(p));
}

GlobalMemory::Allocation& GlobalMemory::find(const void* p, size_t bytes, const char* what) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  if (last_ != nullptr && address - last_begin_ < last_->size &&
      address - last_begin_ + bytes <= last_->size) {
    return *last_;
  }
  auto it = allocations_.upper_bound(address);
  if (it != allocations_.begin()) {
    Allocation& a = std::prev(it)->second;
    const size_t offset = address - std::prev(it)->first;
    if (offset + bytes <= a.size) {
      last_ = &a;
      last_begin_ = std::prev(it)->first;
      return a;
    }
    if (offset <= a.size + (size_t{1} << 20)) {
      throw ImitationError(std::string(what) + " " + std::to_string(bytes) +
                           " bytes of device memory at offset " + std::to_string(offset) +
                           " of an allocation of " + std::to_string(a.size));
    }
  }
  throw ImitationError(std::string(what) + " device memory that is not allocated");
}

template <typename Next>
void GlobalMemory::change(Allocation& a, const void* p, size_t bytes, const Next& next) {
  const auto first = static_cast<size_t>(static_cast<const uint8_t*>(p) - a.begin);
  State before{}, after{};
  bool known = false;  // neighbours are mostly alike
  for (size_t i = first; i < first + bytes; ++i) {
    std::unique_ptr<Page>& page = a.pages[i / kPage];
    if (page == nullptr) page = std::make_unique<Page>();
    const size_t at = i % kPage;
    const State now{page->stamps[at], page->readers[at], page->others[at]};
    if (!known || now != before) {
      before = now;
      after = next(now, i);
      known = true;
    }
    page->stamps[at] = after.stamp;
    page->readers[at] = after.reader;
    page->others[at] = after.others;
  }
}

// --- by the host, and copies

void GlobalMemory::upload(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  begin_launch();
  enter_cluster(0);
  std::memcpy(write(to, bytes, Kind::kStore), from, bytes);
}

void GlobalMemory::download(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  begin_launch();
  enter_cluster(0);
  std::memcpy(to, read(from, bytes), bytes);
}

void GlobalMemory::copy(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  begin_launch();
  enter_cluster(0);
  const uint8_t* const source = read(from, bytes);
  std::memmove(write(to, bytes, Kind::kStore), source, bytes);
}

void GlobalMemory::forget(void* p, size_t bytes) {
  if (bytes == 0) return;
  begin_launch();
  enter_cluster(0);
  const uint64_t mine = stamp(Kind::kStore) | kForgotten;
  change(find(p, bytes, "takes"), p, bytes, [&](const State& s, size_t) {
    return written_state(s, mine);
  });
}

// --- works and their order

void GlobalMemory::begin_launch() {
  ++launch_;
  if (work_ == nullptr && launches_.empty()) {
    first_under_way_ = launch_ + 1;
  } else {
    launches_.push_back(work_);
  }
}
void GlobalMemory::enter_cluster(int cluster) {
  cluster_ = static_cast<uint64_t>(cluster);
}

void GlobalMemory::enter_work(std::shared_ptr<const StreamWork> work) {
  work_ = std::move(work);
}

void GlobalMemory::all_ended() {
  launches_.clear();
  first_under_way_ = launch_ + 1;
}

const StreamWork* GlobalMemory::work_of(uint64_t launch) const {
  return launch < first_under_way_ ? nullptr : launches_[launch - first_under_way_].get();
}

bool GlobalMemory::behind(uint64_t launch) const {
  const StreamWork* const before = work_of(launch);
  if (before == nullptr || work_ == nullptr) return true;
  return work_->behind[static_cast<size_t>(before->stream)] >= before->position;
}

void GlobalMemory::require_behind(uint64_t stamp_or_reader, const char* what) const {
  const uint64_t launch = launch_of(stamp_or_reader);
  if (behind(launch)) return;
  throw ImitationError(work_->who + " " + what + " " + work_of(launch)->who +
                       " may be using: it waits for nothing behind that");
}

uint32_t GlobalMemory::beside(uint32_t others, uint64_t reader) {
  std::vector<uint32_t> set;
  for (const uint32_t launch : sets_[others]) {
    if (!behind(launch)) set.push_back(launch);
  }
  if (reader != 0 && !behind(launch_of(reader))) {
    set.push_back(static_cast<uint32_t>(launch_of(reader)));
  }
  if (set.empty()) return 0;
  const auto [found, added] = set_of_.try_emplace(set, static_cast<uint32_t>(sets_.size()));
  if (added) sets_.push_back(set);
  return found->second;
}

// --- by kernels

uint64_t GlobalMemory::stamp(Kind kind) const {
  return launch_ << kLaunchShift | (cluster_ + 1) << 2 | (kind == Kind::kAdd ? kAdded : 0);
}

GlobalMemory::State GlobalMemory::read_state(const State& s, size_t offset, size_t size) {
  const uint64_t mine = stamp(Kind::kStore);
  if (s.stamp == 0 || (s.stamp & kForgotten) != 0) {
    throw ImitationError("reads byte " + std::to_string(offset) + " of an allocation of " +
                         std::to_string(size) + " bytes, which nothing wrote");
  }
  if (same_launch(s.stamp, mine)) {
    throw ImitationError("reads device memory that the same launch writes");
  }
  if (s.reader == mine || s.reader == (mine | kManyClusters)) return s;
  if (same_launch(s.reader, mine)) return {s.stamp, mine | kManyClusters, s.others};
  require_behind(s.stamp, "reads what");
  const bool alone = s.others == 0 && (s.reader == 0 || behind(launch_of(s.reader)));
  return {s.stamp, mine, alone ? 0 : beside(s.others, s.reader)};
}

GlobalMemory::State GlobalMemory::written_state(const State& s, uint64_t mine) {
  const bool add = (mine & kAdded) != 0;
  if (add && (s.stamp == 0 || (s.stamp & kForgotten) != 0)) {
    throw ImitationError("adds to device memory that nothing wrote");
  }
  if (same_launch(s.stamp, mine) && !(add && (s.stamp & kAdded))) {
    throw ImitationError("writes device memory a second time in the same launch");
  }
  if (same_launch(s.reader, mine) && s.reader != stamp(Kind::kStore)) {
    throw ImitationError("writes device memory that another cluster reads in the same launch");
  }
  if (!same_launch(s.stamp, mine) && s.stamp != 0) require_behind(s.stamp, "writes what");
  if (!same_launch(s.reader, mine) && s.reader != 0) require_behind(s.reader, "writes what");
  for (const uint32_t launch : sets_[s.others]) {
    require_behind(uint64_t{launch} << kLaunchShift, "writes what");
  }
  // A cluster that stores what it has read goes on to be the reader of its launch.
  return {mine, same_launch(s.reader, mine) ? s.reader : 0, 0};
}

const uint8_t* GlobalMemory::read(const void* p, size_t bytes) {
  Allocation& a = find(p, bytes, "reads");
  change(a, p, bytes, [&](const State& s, size_t i) { return read_state(s, i, a.size); });
  return static_cast<const uint8_t*>(p);
}

uint8_t* GlobalMemory::write(void* p, size_t bytes, Kind kind) {
  Allocation& a = find(p, bytes, kind == Kind::kAdd ? "adds to" : "writes");
  const uint64_t mine = stamp(kind);
  change(a, p, bytes, [&](const State& s, size_t) { return written_state(s, mine); });
  return static_cast<uint8_t*>(p);
}

}  // namespace rehearse::kernels::imitation
