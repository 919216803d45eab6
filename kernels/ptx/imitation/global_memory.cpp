#include "kernels/ptx/imitation/global_memory.h"

#include <cstring>
#include <string>

#include "kernels/ptx/imitation/shared_memory.h"

namespace rehearse::kernels::imitation {
namespace {

constexpr size_t kAlign = 256;
constexpr uint64_t kAdded = 1;
constexpr uint64_t kUploaded = 2;  // of no launch
constexpr int kLaunchShift = 32;
constexpr uint64_t kManyClusters = 0xffffffff;

bool same_launch(uint64_t a, uint64_t b) {
  return a >> kLaunchShift == b >> kLaunchShift;
}

}  // namespace

GlobalMemory& GlobalMemory::instance() {
  static GlobalMemory memory;
  return memory;
}

void* GlobalMemory::allocate(size_t bytes) {
  Allocation a;
  a.storage.assign(bytes + kAlign, 0xff);  // NaN in every format
  const auto address = reinterpret_cast<uintptr_t>(a.storage.data());
  a.begin = a.storage.data() + (kAlign - address % kAlign) % kAlign;
  a.size = bytes;
  a.stamps.assign(bytes, 0);
  a.readers.assign(bytes, 0);
  uint8_t* begin = a.begin;
  allocations_[reinterpret_cast<uintptr_t>(begin)] = std::move(a);
  return begin;
}

void GlobalMemory::release(void* p) {
  allocations_.erase(reinterpret_cast<uintptr_t>(p));
}

GlobalMemory::Allocation& GlobalMemory::find(const void* p, size_t bytes, const char* what) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  auto it = allocations_.upper_bound(address);
  if (it != allocations_.begin()) {
    Allocation& a = std::prev(it)->second;
    const size_t offset = address - std::prev(it)->first;
    if (offset + bytes <= a.size) return a;
    if (offset <= a.size + (size_t{1} << 20)) {
      throw ImitationError(std::string(what) + " " + std::to_string(bytes) +
                           " bytes of device memory at offset " + std::to_string(offset) +
                           " of an allocation of " + std::to_string(a.size));
    }
  }
  throw ImitationError(std::string(what) + " device memory that is not allocated");
}

void GlobalMemory::upload(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  Allocation& a = find(to, bytes, "uploads");
  std::memcpy(to, from, bytes);
  const size_t offset = static_cast<size_t>(static_cast<uint8_t*>(to) - a.begin);
  std::fill_n(a.stamps.begin() + static_cast<ptrdiff_t>(offset), bytes, kUploaded);
}

void GlobalMemory::download(void* to, const void* from, size_t bytes) {
  if (bytes == 0) return;
  Allocation& a = find(from, bytes, "downloads");
  const size_t offset = static_cast<size_t>(static_cast<const uint8_t*>(from) - a.begin);
  for (size_t i = offset; i < offset + bytes; ++i) {
    if (a.stamps[i] == 0) {
      throw ImitationError("the kernel left byte " + std::to_string(i) + " of an output of " +
                           std::to_string(a.size) + " bytes unwritten");
    }
  }
  std::memcpy(to, from, bytes);
}

void GlobalMemory::begin_launch() {
  ++launch_;
}
void GlobalMemory::enter_cluster(int cluster) {
  cluster_ = static_cast<uint64_t>(cluster);
}

uint64_t GlobalMemory::stamp(Kind kind) const {
  return launch_ << kLaunchShift | (cluster_ + 1) << 2 | (kind == Kind::kAdd ? kAdded : 0);
}

const uint8_t* GlobalMemory::read(const void* p, size_t bytes) {
  Allocation& a = find(p, bytes, "reads");
  const size_t offset = static_cast<size_t>(static_cast<const uint8_t*>(p) - a.begin);
  const uint64_t mine = stamp(Kind::kStore);
  for (size_t i = offset; i < offset + bytes; ++i) {
    if (a.stamps[i] == 0) {
      throw ImitationError("reads byte " + std::to_string(i) + " of an allocation of " +
                           std::to_string(a.size) + " bytes, which nothing wrote");
    }
    if (same_launch(a.stamps[i], mine)) {
      throw ImitationError("reads device memory that the same launch writes");
    }
    uint64_t& reader = a.readers[i];
    reader = !same_launch(reader, mine) || reader == mine ? mine : mine | kManyClusters;
  }
  return static_cast<const uint8_t*>(p);
}

uint8_t* GlobalMemory::write(void* p, size_t bytes, Kind kind) {
  Allocation& a = find(p, bytes, kind == Kind::kAdd ? "adds to" : "writes");
  const size_t offset = static_cast<size_t>(static_cast<uint8_t*>(p) - a.begin);
  const uint64_t mine = stamp(kind);
  for (size_t i = offset; i < offset + bytes; ++i) {
    uint64_t& s = a.stamps[i];
    if (kind == Kind::kAdd && s == 0) {
      throw ImitationError("adds to device memory that nothing wrote");
    }
    if (same_launch(s, mine) && !(kind == Kind::kAdd && (s & kAdded))) {
      throw ImitationError("writes device memory a second time in the same launch");
    }
    if (const uint64_t r = a.readers[i]; same_launch(r, mine) && r != stamp(Kind::kStore)) {
      throw ImitationError("writes device memory that another cluster reads in the same launch");
    }
    s = mine;
  }
  return static_cast<uint8_t*>(p);
}

}  // namespace rehearse::kernels::imitation
