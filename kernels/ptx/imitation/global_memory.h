#pragma once
// Device memory of the imitation: allocations by address, and which clusters of the running launch
// read and wrote every byte. Clusters run in no stated order, so one may not write what another
// reads; loads of the kernels are for what nobody writes meanwhile (ld.global.nc, tensor copies),
// so none may read what the launch wrote; and a byte is stored once. Additions may meet.

#include <cstddef>
#include <cstdint>
#include <map>
#include <vector>

namespace rehearse::kernels::imitation {

class GlobalMemory {
 public:
  static GlobalMemory& instance();

  // Unwritten memory, aligned to 256 bytes.
  void* allocate(size_t bytes);
  void release(void* p);
  // From and to the host. Reading throws ImitationError where a byte was never written.
  void upload(void* to, const void* from, size_t bytes);
  void download(void* to, const void* from, size_t bytes);

  // By a kernel; all throw ImitationError, without the place.
  enum class Kind { kStore, kAdd };
  const uint8_t* read(const void* p, size_t bytes);
  uint8_t* write(void* p, size_t bytes, Kind kind);
  // Until the next call accesses are of this cluster of the current launch.
  void begin_launch();
  void enter_cluster(int cluster);

 private:
  struct Allocation {
    std::vector<uint8_t> storage;  // with room for the alignment
    uint8_t* begin = nullptr;
    size_t size = 0;
    std::vector<uint64_t> stamps;   // per byte: 0 unwritten, else launch, cluster, whether added
    std::vector<uint64_t> readers;  // per byte: 0 none, else launch and cluster, or kMany
  };
  Allocation& find(const void* p, size_t bytes, const char* what);
  uint64_t stamp(Kind kind) const;

  std::map<uintptr_t, Allocation> allocations_;
  uint64_t launch_ = 1;
  uint64_t cluster_ = 0;
};

}  // namespace rehearse::kernels::imitation
