#pragma once
// Ranks as threads of one process: messages are copied through memory, collectives read each
// other's buffers in place.

#include <condition_variable>
#include <map>
#include <mutex>
#include <tuple>

#include "runtime/communicator.h"

namespace rehearse {

class LocalCommunicator : public Communicator {
 public:
  void send(int64_t from, int64_t to, uint64_t tag, std::span<const float> data) override;
  void recv(
      int64_t from, int64_t to, uint64_t tag, std::span<float> data, const Ready& ready) override;
  void reduce_scatter(const Collective& c,
                      int64_t rank,
                      std::span<float> data,
                      const Ready& ready) override;
  void all_gather(const Collective& c,
                  int64_t rank,
                  std::span<float> data,
                  const Ready& ready) override;
  std::vector<std::vector<float>> all_to_all(const Collective& c,
                                             int64_t rank,
                                             std::vector<std::vector<float>> outgoing,
                                             const Ready& ready) override;
  double sum(const Collective& c, int64_t rank, double value, const Ready& ready) override;
  std::vector<int64_t> sum(const Collective& c,
                           int64_t rank,
                           std::span<const int64_t> values,
                           const Ready& ready) override;
  void abort() override;

 private:
  using Address = std::tuple<int64_t, int64_t, uint64_t>;  // from, to, tag

  // Where the members of one collective meet. Each brings a pointer and sees everybody's; all
  // leave together, so nobody changes what another still reads.
  struct Meeting {
    std::vector<const void*> brought;  // by member
    size_t arrived = 0;
    size_t finished = 0;
    size_t left = 0;
  };

  void post(const Address& address, std::vector<float> message);
  std::vector<float> take(const Address& address);
  static size_t index_of(const Collective& c, int64_t rank);
  // Brings `mine`, waits for all, calls `work` with everybody's pointers, waits for all again.
  void meet(const Collective& c,
            int64_t rank,
            const void* mine,
            const Ready& ready,
            const std::function<void(const std::vector<const void*>&)>& work);
  void wait(std::unique_lock<std::mutex>& lock, const std::function<bool()>& condition);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<Address, std::vector<std::vector<float>>> messages_;
  std::vector<std::vector<float>> spare_;                     // message buffers to use again
  std::map<std::pair<int64_t, uint64_t>, Meeting> meetings_;  // by first member and key
  bool aborted_ = false;
};

}  // namespace rehearse
