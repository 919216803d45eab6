#include "sim/sharing.h"

#include <algorithm>
#include <cmath>

namespace rehearse {

ResourceId Sharing::add_resource(double capacity) {
  CHECK(capacity > 0) << "a resource of capacity " << capacity;
  Resource r;
  r.capacity = capacity;
  resources_.push_back(std::move(r));
  return static_cast<ResourceId>(resources_.size()) - 1;
}

void Sharing::mark(ResourceId r) {
  Resource& resource = resources_[static_cast<size_t>(r)];
  if (resource.dirty) return;
  resource.dirty = true;
  dirty_.push_back(r);
}

ActivityId Sharing::start(
    Duration now, double work, double bound, std::span<const Use> uses, uint64_t payload) {
  CHECK(work >= 0 && bound > 0) << "work " << work << ", bound " << bound;
  ActivityId id;
  if (free_.empty()) {
    id = static_cast<ActivityId>(activities_.size());
    activities_.emplace_back();
  } else {
    id = free_.back();
    free_.pop_back();
  }
  Activity& a = activities_[static_cast<size_t>(id)];
  a.remaining = work;
  a.bound = bound;
  a.rate = 0;
  a.updated = now.picoseconds();
  a.payload = payload;
  ++a.generation;
  a.alive = true;
  a.uses.assign(uses.begin(), uses.end());
  for (const Use& u : uses) {
    CHECK(u.weight > 0) << "a use of weight " << u.weight;
    resources_[static_cast<size_t>(u.resource)].users.push_back(id);
    mark(u.resource);
  }
  if (uses.empty()) fresh_.push_back(id);
  return id;
}

void Sharing::collect(ResourceId from) {
  // Breadth first over resource - activity - resource; part_resources_ is the frontier too.
  part_.clear();
  part_resources_.clear();
  const auto reach = [&](ResourceId r) {
    Resource& resource = resources_[static_cast<size_t>(r)];
    if (resource.visit == visit_) return;
    resource.visit = visit_;
    part_resources_.push_back(r);
  };
  reach(from);
  for (size_t i = 0; i < part_resources_.size(); ++i) {
    for (const ActivityId id : resources_[static_cast<size_t>(part_resources_[i])].users) {
      Activity& a = activities_[static_cast<size_t>(id)];
      if (a.visit == visit_) continue;
      a.visit = visit_;
      part_.push_back(id);
      for (const Use& u : a.uses) reach(u.resource);
    }
  }
}

void Sharing::solve() {
  for (const ResourceId r : part_resources_) {
    Resource& resource = resources_[static_cast<size_t>(r)];
    resource.left = resource.capacity;
    resource.weight = 0;
    resource.rising = static_cast<int32_t>(resource.users.size());
  }
  for (const ActivityId id : part_) {
    Activity& a = activities_[static_cast<size_t>(id)];
    a.fixed = false;
    for (const Use& u : a.uses) resources_[static_cast<size_t>(u.resource)].weight += u.weight;
  }
  // In the order of bounds, so that each activity that its own bound stops is found in one step.
  std::sort(part_.begin(), part_.end(), [&](ActivityId x, ActivityId y) {
    const double bx = activities_[static_cast<size_t>(x)].bound;
    const double by = activities_[static_cast<size_t>(y)].bound;
    return bx != by ? bx < by : x < y;
  });
  const auto fix = [&](Activity& a, double rate) {
    a.fixed = true;
    a.solved = rate;
    for (const Use& u : a.uses) {
      Resource& r = resources_[static_cast<size_t>(u.resource)];
      r.left = std::max(0.0, r.left - u.weight * rate);
      r.weight -= u.weight;
      --r.rising;
    }
  };
  size_t next_bound = 0;
  size_t unfixed = part_.size();
  while (unfixed > 0) {
    while (activities_[static_cast<size_t>(part_[next_bound])].fixed) ++next_bound;
    const double bound = activities_[static_cast<size_t>(part_[next_bound])].bound;
    double level = std::numeric_limits<double>::infinity();
    ResourceId tightest = -1;
    for (const ResourceId r : part_resources_) {
      const Resource& resource = resources_[static_cast<size_t>(r)];
      if (resource.rising == 0) continue;
      const double share = resource.left / resource.weight;
      if (share < level) {
        level = share;
        tightest = r;
      }
    }
    if (bound <= level) {
      fix(activities_[static_cast<size_t>(part_[next_bound])], bound);
      --unfixed;
      continue;
    }
    for (const ActivityId id : resources_[static_cast<size_t>(tightest)].users) {
      Activity& a = activities_[static_cast<size_t>(id)];
      if (a.fixed) continue;
      fix(a, level);
      --unfixed;
    }
  }
}

void Sharing::schedule(Activity& a, ActivityId id, int64_t now, EventQueue& queue) {
  ++a.generation;
  const uint64_t event = (static_cast<uint64_t>(a.generation) << 32) | static_cast<uint32_t>(id);
  CHECK(a.remaining == 0 || a.rate > 0) << "an activity that will never end";
  const double left = a.remaining == 0 ? 0 : a.remaining / a.rate;
  queue.push(now + static_cast<int64_t>(std::nearbyint(left)), event);
}

void Sharing::update(Duration at, EventQueue& queue) {
  const int64_t now = at.picoseconds();
  const auto settle = [&](ActivityId id, double rate) {
    Activity& a = activities_[static_cast<size_t>(id)];
    if (a.rate == rate) return;
    a.remaining = std::max(0.0, a.remaining - a.rate * static_cast<double>(now - a.updated));
    a.updated = now;
    a.rate = rate;
    schedule(a, id, now, queue);
  };
  for (const ActivityId id : fresh_) {
    Activity& a = activities_[static_cast<size_t>(id)];
    if (a.alive) settle(id, a.bound);
  }
  fresh_.clear();
  if (dirty_.empty()) return;
  ++visit_;
  for (const ResourceId r : dirty_) {
    Resource& resource = resources_[static_cast<size_t>(r)];
    resource.dirty = false;
    if (resource.visit == visit_) continue;
    collect(r);
    solve();
    std::sort(part_.begin(), part_.end());
    for (const ActivityId id : part_) settle(id, activities_[static_cast<size_t>(id)].solved);
  }
  dirty_.clear();
}

bool Sharing::finish(uint64_t event, uint64_t& payload) {
  const auto id = static_cast<ActivityId>(event & 0xffffffffu);
  Activity& a = activities_[static_cast<size_t>(id)];
  if (!a.alive || a.generation != static_cast<uint32_t>(event >> 32)) return false;
  payload = a.payload;
  a.alive = false;
  for (const Use& u : a.uses) {
    auto& users = resources_[static_cast<size_t>(u.resource)].users;
    users.erase(std::find(users.begin(), users.end(), id));
    mark(u.resource);
  }
  free_.push_back(id);
  return true;
}

}  // namespace rehearse
