#pragma once
// Vector clocks: who has seen what of whom. Every agent that touches shared memory (a thread, a
// warp's tensor core, an mbarrier on behalf of the tensor copies that complete on it, a thread's
// stores by the copy engine) has a counter; a clock holds, per agent, up to where its owner is sure
// to see that agent's accesses. Two accesses race when neither's agent is sure to have seen the
// other, in whatever order this run made them. (Lamport 1978; Mattern 1989; per location the last
// write and the reads since, as in Flanagan and Freund's FastTrack, 2009.)

#include <algorithm>
#include <cstdint>
#include <vector>

namespace rehearse::kernels::imitation {

struct Epoch {
  uint16_t agent = 0;
  uint32_t time = 0;  // 0: never
};

class VectorClock {
 public:
  explicit VectorClock(int agents = 0) : times_(static_cast<size_t>(agents)) {}
  uint32_t& operator[](int agent) { return times_[static_cast<size_t>(agent)]; }
  bool has_seen(Epoch e) const { return times_[e.agent] >= e.time; }
  void join(const VectorClock& other) {
    uint32_t* mine = times_.data();
    const uint32_t* theirs = other.times_.data();
    const size_t n = times_.size();
    for (size_t i = 0; i < n; ++i) mine[i] = std::max(mine[i], theirs[i]);
  }

 private:
  std::vector<uint32_t> times_;
};

// What its owner has seen: `all` accesses, and those writes of threads that their proxy fences have
// made visible to tensor copies and tensor cores.
struct Sight {
  explicit Sight(int agents = 0) : all(agents), fenced(agents) {}
  void join(const Sight& other) {
    all.join(other.all);
    fenced.join(other.fenced);
  }
  VectorClock all;
  VectorClock fenced;
};

}  // namespace rehearse::kernels::imitation
