#include "sim/network/link_meter.h"

#include <algorithm>

namespace rehearse {

void LinkMeter::choose(ResourceId resource, size_t port) {
  const auto at = static_cast<size_t>(resource);
  if (port_of_.size() <= at) port_of_.resize(at + 1);
  port_of_[at] = {port, true};
}

void LinkMeter::started(ActivityId id,
                        std::span<const Use> uses,
                        double work,
                        const Sharing& sharing) {
  Watched w{.id = id, .sequence = sharing.sequence(id), .left = work, .ports = {}};
  for (const Use& u : uses) {
    const auto at = static_cast<size_t>(u.resource);
    if (at < port_of_.size() && port_of_[at].second) {
      w.ports.emplace_back(port_of_[at].first, u.weight);
    }
  }
  if (!w.ports.empty()) watched_.push_back(std::move(w));
}

void LinkMeter::stopped(ActivityId id, Duration now, const Sharing& sharing) {
  settle(now, sharing);
  std::erase_if(watched_,
                [&](const Watched& w) { return w.id == id && w.sequence == sharing.sequence(id); });
}

void LinkMeter::settle(Duration now, const Sharing& sharing) {
  const Duration since = std::exchange(since_, now);
  if (since == now) return;
  std::erase_if(watched_, [&](Watched& w) {
    const bool running = sharing.running(w.id, w.sequence);
    const double left = running ? sharing.remaining(w.id, now) : 0;
    // What has just been started has not begun to carry.
    const double carried = w.left - left;
    for (const auto& [port, weight] : w.ports) {
      if (carried > 0) carried_(port, since, now, carried * weight);
    }
    w.left = left;
    return !running;
  });
}

}  // namespace rehearse
