#pragma once
// Device memory of the imitation: allocations by address, and who read and wrote every byte.
//
// Within a launch: clusters run in no stated order, so one may not write what another reads; loads
// of the kernels are for what nobody writes meanwhile (ld.global.nc, tensor copies), so none may
// read what the launch wrote; and a byte is stored once. Additions may meet.
//
// Between works of several streams: two uses of a byte of which one writes, neither behind the
// other, are refused, in whatever order they happened to run.

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace rehearse::kernels::imitation {

// What a stream does as one: a kernel's launches, a copy.
struct StreamWork {
  std::string who;  // for errors
  int32_t stream = 0;
  int64_t position = 0;         // on it
  std::vector<int64_t> behind;  // by stream: the position that it waits for, its own included
};

class GlobalMemory {
 public:
  static GlobalMemory& instance();

  // Unwritten memory, aligned to 256 bytes.
  void* allocate(size_t bytes);
  void release(void* p);
  // From and to the host. Reading throws ImitationError where a byte was never written.
  void upload(void* to, const void* from, size_t bytes);
  void download(void* to, const void* from, size_t bytes);
  void copy(void* to, const void* from, size_t bytes);
  // Memory changes hands: a write, and what is in it is nobody's any more.
  void forget(void* p, size_t bytes);

  // By a kernel; all throw ImitationError, without the place.
  enum class Kind { kStore, kAdd };
  const uint8_t* read(const void* p, size_t bytes);
  uint8_t* write(void* p, size_t bytes, Kind kind);
  // Until the next call accesses are of this cluster of the current launch.
  void begin_launch();
  void enter_cluster(int cluster);

  // Until the next call what is done is of this work; null: the host's, behind everything.
  void enter_work(std::shared_ptr<const StreamWork> work);
  // All works have ended: what follows is behind them.
  void all_ended();

 private:
  static constexpr size_t kPage = 512;  // bytes
  struct Page {
    uint64_t stamps[kPage] = {};   // 0 unwritten, else launch, cluster, how
    uint64_t readers[kPage] = {};  // since then: 0 none, else launch and cluster, or kMany
    uint32_t others[kPage] = {};   // launches that read beside them, a set of sets_
  };
  struct Allocation {
    std::unique_ptr<uint8_t[]> storage;  // with room for the alignment
    uint8_t* begin = nullptr;
    size_t size = 0;
    std::vector<std::unique_ptr<Page>> pages;  // made when touched
  };
  struct State {
    uint64_t stamp, reader;
    uint32_t others;
    bool operator==(const State&) const = default;
  };
  Allocation& find(const void* p, size_t bytes, const char* what);
  // Every byte's state becomes what `next` makes of it.
  template <typename Next>
  void change(Allocation& a, const void* p, size_t bytes, const Next& next);
  uint64_t stamp(Kind kind) const;
  State read_state(const State& s, size_t offset, size_t size);
  State written_state(const State& s, uint64_t mine);
  const StreamWork* work_of(uint64_t launch) const;
  bool behind(uint64_t launch) const;
  void require_behind(uint64_t stamp_or_reader, const char* what) const;
  // Readers that a new one is beside: the set, and the last one, without those it is behind.
  uint32_t beside(uint32_t others, uint64_t reader);

  std::map<uintptr_t, Allocation> allocations_;
  Allocation* last_ = nullptr;  // that was asked for, and where it begins
  uintptr_t last_begin_ = 0;
  uint64_t launch_ = 1;
  uint64_t cluster_ = 0;
  std::shared_ptr<const StreamWork> work_;
  uint64_t first_under_way_ = 2;                             // launches before have ended
  std::vector<std::shared_ptr<const StreamWork>> launches_;  // from it on
  std::vector<std::vector<uint32_t>> sets_{1};               // of launches; the first is empty
  std::map<std::vector<uint32_t>, uint32_t> set_of_;
};

}  // namespace rehearse::kernels::imitation
