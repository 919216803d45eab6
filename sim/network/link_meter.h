#pragma once
// What activities carry over chosen resources while it happens: between two moments at which rates
// may change, bytes are spread evenly, since they were carried so.

#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "sim/engine/sharing.h"

namespace rehearse {

class LinkMeter {
 public:
  // port: as given to choose().
  using Carried = std::function<void(size_t port, Duration begin, Duration end, double bytes)>;
  explicit LinkMeter(Carried carried) : carried_(std::move(carried)) {}

  void choose(ResourceId resource, size_t port);
  // An activity of `sharing` that has just been started with so much work.
  void started(ActivityId id, std::span<const Use> uses, double work, const Sharing& sharing);
  // It is stopped before its end, at `now`.
  void stopped(ActivityId id, Duration now, const Sharing& sharing);
  // Before rates change at `now`: sharing.before_changes() is to call it.
  void settle(Duration now, const Sharing& sharing);

 private:
  struct Watched {
    ActivityId id = 0;
    uint64_t sequence = 0;
    double left = 0;
    std::vector<std::pair<size_t, double>> ports;  // and weights
  };
  Carried carried_;
  std::vector<std::pair<size_t, bool>> port_of_;  // by resource: whether it is chosen
  std::vector<Watched> watched_;
  Duration since_;
};

}  // namespace rehearse
