#include "sim/engine/sharing.h"

#include <algorithm>
#include <cmath>

namespace rehearse {

ResourceId Sharing::add_resource(double capacity) {
  CHECK(capacity > 0) << "a resource of capacity " << capacity;
  resources_.emplace_back();
  shares_.push_back({.capacity = capacity});
  return static_cast<ResourceId>(resources_.size()) - 1;
}

void Sharing::reserve_resources(size_t count) {
  resources_.reserve(count);
  shares_.reserve(count);
}

double Sharing::weight_at(const Activity& a, ResourceId r) const {
  for (const Use& u : uses(a)) {
    if (u.resource == r) return u.weight;
  }
  return 0;
}

// --- components

int32_t Sharing::component_of(std::span<const Use> uses) {
  int32_t c = kNone;
  for (const Use& u : uses) {
    const int32_t here = at(u.resource).component;
    if (here == kNone || here == c) continue;
    c = c == kNone ? here : merge(c, here);
  }
  if (c == kNone) {
    if (free_components_.empty()) {
      c = static_cast<int32_t>(components_.size());
      components_.emplace_back();
    } else {
      c = free_components_.back();
      free_components_.pop_back();
    }
  }
  for (const Use& u : uses) {
    Resource& r = at(u.resource);
    if (r.component == c) continue;
    r.component = c;
    components_[static_cast<size_t>(c)].slack.push_back(u.resource);
  }
  return c;
}

int32_t Sharing::merge(int32_t a, int32_t b) {
  if (components_[static_cast<size_t>(a)].size() < components_[static_cast<size_t>(b)].size()) {
    std::swap(a, b);
  }
  Component& to = components_[static_cast<size_t>(a)];
  Component& from = components_[static_cast<size_t>(b)];
  for (const ResourceId r : from.slack) at(r).component = a;
  for (const ResourceId r : from.order) at(r).component = a;
  to.slack.insert(to.slack.end(), from.slack.begin(), from.slack.end());
  merged_.clear();
  std::merge(to.order.begin(),
             to.order.end(),
             from.order.begin(),
             from.order.end(),
             std::back_inserter(merged_),
             [&](ResourceId x, ResourceId y) { return share(x).level < share(y).level; });
  to.order.swap(merged_);
  for (size_t i = 0; i < to.order.size(); ++i) at(to.order[i]).position = static_cast<int32_t>(i);
  to.activities += from.activities;
  to.from = 0;
  from.slack.clear();
  from.order.clear();
  from.activities = 0;
  from.next = kNever;
  ++from.generation;
  if (!from.dirty) free_components_.push_back(b);  // else update() frees it
  return a;
}

void Sharing::dissolve(int32_t index) {
  Component& c = components_[static_cast<size_t>(index)];
  c.slack.insert(c.slack.end(), c.order.begin(), c.order.end());
  for (const ResourceId id : c.slack) {
    Resource& r = at(id);
    Share& s = share(id);
    s.load = s.inverse = s.level = r.weight = 0;
    r.progress = 0;
    r.component = r.position = kNone;
    r.stale = false;
  }
  c.slack.clear();
  c.order.clear();
  c.next = kNever;
  ++c.generation;
  if (!c.dirty) free_components_.push_back(index);  // else update() frees it
}

void Sharing::touch(Component& c, const Resource& r) {
  if (!c.dirty) {
    c.dirty = true;
    dirty_.push_back(static_cast<int32_t>(&c - components_.data()));
  }
  if (r.position != kNone) c.from = std::min(c.from, static_cast<uint32_t>(r.position));
}

void Sharing::enter_order(Component& c, ResourceId r) {
  at(r).position = static_cast<int32_t>(c.order.size());
  c.order.push_back(r);
  c.slack.erase(std::find(c.slack.begin(), c.slack.end(), r));
}

// --- activities of a resource

void Sharing::advance(ResourceId id, int64_t now) {
  Resource& r = at(id);
  if (now == r.since) return;
  r.progress += exact_rate(share(id).level) * (now - r.since);
  r.since = now;
}

void Sharing::add_own(ResourceId id, ActivityId activity, Exact mark) {
  Resource& r = at(id);
  Activity& a = activities_[static_cast<size_t>(activity)];
  a.bottleneck = id;
  a.place = static_cast<uint32_t>(r.own.size());
  ResourceId other = a.count == 1 ? kNone : kMany;
  if (a.count == 2) {
    const Use& use = a.few[a.few[0].resource == id ? 1 : 0];
    if (use.weight == 1) other = use.resource;
  }
  if (r.own.empty() || mark < r.first) r.first = mark;
  r.own.push_back({mark, activity});
  r.others.push_back(other);
  r.special += other < 0;
  r.weight += weight_at(a, id);
  share(id).inverse = 1 / r.weight;
  r.stale = true;
}

void Sharing::remove_own(ResourceId id, uint32_t place) {
  Resource& r = at(id);
  const Own gone = r.own[place];
  r.own[place] = r.own.back();
  r.own.pop_back();
  r.special -= r.others[place] < 0;
  r.others[place] = r.others.back();
  r.others.pop_back();
  if (place < r.own.size()) {
    activities_[static_cast<size_t>(r.own[place].id)].place = place;
  }
  const double weight = weight_at(activities_[static_cast<size_t>(gone.id)], id);
  r.weight = r.own.empty() ? 0 : r.weight - weight;
  share(id).inverse = r.own.empty() ? 0 : 1 / r.weight;
  if (gone.mark <= r.first) {
    r.first = kMostExact;
    for (const Own& o : r.own) r.first = std::min(r.first, o.mark);
  }
  r.stale = true;
}

ActivityId Sharing::start(
    Duration now, double work, double bound, std::span<const Use> given, uint64_t payload) {
  CHECK(work >= 0 && bound > 0 && payload < kOurs) << "work " << work << ", bound " << bound;
  CHECK(bound < kNoBound || !given.empty()) << "an activity that nothing holds back";
  if (!(work <= kLongest)) throw_too_long();
  ActivityId id;
  if (free_activities_.empty()) {
    id = static_cast<ActivityId>(activities_.size());
    activities_.emplace_back();
  } else {
    id = free_activities_.back();
    free_activities_.pop_back();
  }
  ResourceId bound_resource = kNone;
  if (bound < kNoBound) {
    if (free_bounds_.empty()) {
      bound_resource = add_resource(bound);
    } else {
      bound_resource = free_bounds_.back();
      free_bounds_.pop_back();
      share(bound_resource).capacity = bound;
    }
  }
  Activity& a = activities_[static_cast<size_t>(id)];
  a.payload = payload;
  a.sequence = sequence_++;
  a.bound_resource = bound_resource;
  a.count = static_cast<uint32_t>(given.size()) + (bound_resource == kNone ? 0 : 1);
  if (a.count <= 2) {
    std::copy(given.begin(), given.end(), a.few);
    if (bound_resource != kNone) a.few[a.count - 1] = {bound_resource, 1};
  } else {
    a.many = std::make_unique<Use[]>(a.count);
    std::copy(given.begin(), given.end(), a.many.get());
    if (bound_resource != kNone) a.many[a.count - 1] = {bound_resource, 1};
  }
  Component& c = components_[static_cast<size_t>(component_of(uses(a)))];
  ++c.activities;
  // Stopped at first by the earliest of its resources that stop somebody; the sweep moves it.
  ResourceId stop = kNone;
  for (const Use& u : uses(a)) {
    Resource& r = at(u.resource);
    CHECK(u.weight > 0) << "a use of weight " << u.weight;
    ++r.users;
    if (r.position == kNone) continue;
    if (stop == kNone || r.position < at(stop).position) stop = u.resource;
  }
  if (stop == kNone) {
    double least = std::numeric_limits<double>::infinity();
    for (const Use& u : uses(a)) {
      const double left = (share(u.resource).capacity - share(u.resource).load) / u.weight;
      if (left >= least) continue;
      least = left;
      stop = u.resource;
    }
    enter_order(c, stop);
    at(stop).since = now.picoseconds();
  }
  advance(stop, now.picoseconds());
  add_own(stop, id, at(stop).progress + to_exact(work));
  for (const Use& u : uses(a)) {
    if (u.resource != stop) share(u.resource).load += u.weight * share(stop).level;
    touch(c, at(u.resource));
  }
  return id;
}

void Sharing::remove(ActivityId id) {
  Activity& a = activities_[static_cast<size_t>(id)];
  const ResourceId stop = a.bottleneck;
  Component& c = components_[static_cast<size_t>(at(stop).component)];
  remove_own(stop, a.place);
  for (const Use& u : uses(a)) {
    Resource& r = at(u.resource);
    --r.users;
    if (u.resource != stop) share(u.resource).load -= u.weight * share(stop).level;
    // Where nobody else is left, rounding is not either.
    if (r.users == static_cast<int32_t>(r.own.size())) share(u.resource).load = 0;
    touch(c, r);
  }
  if (a.bound_resource != kNone) free_bounds_.push_back(a.bound_resource);
  a.bottleneck = kNone;
  a.bound_resource = kNone;
  a.many.reset();
  free_activities_.push_back(id);
  --c.activities;
}

void Sharing::stop(ActivityId id) {
  const int32_t index = at(activities_[static_cast<size_t>(id)].bottleneck).component;
  remove(id);
  if (components_[static_cast<size_t>(index)].activities == 0) dissolve(index);
}

void Sharing::shrink() {
  for (Resource& r : resources_) {
    r.own.shrink_to_fit();
    r.others.shrink_to_fit();
  }
  while (!activities_.empty() && activities_.back().bottleneck == kNone) activities_.pop_back();
  activities_.shrink_to_fit();
  std::erase_if(free_activities_,
                [&](ActivityId id) { return static_cast<size_t>(id) >= activities_.size(); });
  free_activities_.shrink_to_fit();
}

// --- levels

// Activities stopped by `from` that also use `to` are stopped by that one from now on.
void Sharing::take_over(ResourceId from_id, ResourceId to_id, int64_t now) {
  Resource& from = at(from_id);
  Resource& to = at(to_id);
  // Mostly they share none: looked for first, in a loop that can do many at a time.
  int32_t candidates = 0;
  for (const ResourceId other : from.others) candidates += (other == to_id) | (other == kMany);
  if (candidates == 0) return;
  const double from_level = share(from_id).level;
  const double to_level = share(to_id).level;
  for (uint32_t i = 0; i < from.own.size();) {
    const ResourceId other = from.others[i];
    if (other != to_id && other != kMany) {
      ++i;
      continue;
    }
    const Own own = from.own[i];
    if (other == kMany && weight_at(activities_[static_cast<size_t>(own.id)], to_id) == 0) {
      ++i;
      continue;
    }
    advance(from_id, now);
    if (to.own.empty()) to.since = now;
    advance(to_id, now);
    const Activity& a = activities_[static_cast<size_t>(own.id)];
    remove_own(from_id, i);
    for (const Use& u : uses(a)) {
      share(u.resource).load += u.weight * (u.resource == from_id ? to_level
                                            : u.resource == to_id ? -from_level
                                                                  : to_level - from_level);
    }
    add_own(to_id, own.id, to.progress + std::max<Exact>(0, own.mark - from.progress));
    if (to.users == static_cast<int32_t>(to.own.size())) share(to_id).load = 0;
  }
}

void Sharing::set_level(ResourceId id, double level, int64_t now) {
  const double change = level - share(id).level;
  if (change == 0) return;
  advance(id, now);
  share(id).level = level;
  Resource& r = at(id);
  r.stale = true;
  Share* const shares = shares_.data();
  if (r.special == 0) {  // nearly always
    for (const ResourceId other : r.others) shares[other].load += change;
    return;
  }
  for (size_t i = 0; i < r.others.size(); ++i) {
    const ResourceId other = r.others[i];
    if (other >= 0) {
      shares[other].load += change;
    } else if (other == kMany) {
      for (const Use& u : uses(activities_[static_cast<size_t>(r.own[i].id)])) {
        if (u.resource != id) shares[u.resource].load += u.weight * change;
      }
    }
  }
}

void Sharing::sweep(Component& c, int64_t now) {
  std::vector<ResourceId>& order = c.order;
  const auto place = [&](size_t k) { at(order[k]).position = static_cast<int32_t>(k); };
  const auto overtaxed = [](const Share& s) { return s.load > s.capacity * (1 + kSlack); };
  for (size_t k = c.from;;) {
    if (k == order.size()) {
      // All levels ascend. A resource that stops nobody must not be taxed beyond its capacity; one
      // that is, enters at the end and finds its place.
      for (size_t i = 0; i < c.slack.size();) {
        const ResourceId id = c.slack[i];
        overtaxed(share(id)) ? enter_order(c, id) : void(++i);
      }
      if (k == order.size()) break;
    }
    const ResourceId id = order[k];
    const Share& s = share(id);
    if (s.inverse == 0 && !overtaxed(s)) {
      share(id).level = 0;
      at(id).progress = 0;
      at(id).position = kNone;
      c.slack.push_back(id);
      order.erase(order.begin() + static_cast<ptrdiff_t>(k));
      for (size_t i = k; i < order.size(); ++i) place(i);
      continue;
    }
    const double level = s.inverse == 0 ? -std::numeric_limits<double>::infinity()
                                        : (s.capacity - s.load) * s.inverse;
    if (k > 0 && level < share(order[k - 1]).level * (1 - kSlack)) {
      take_over(order[k - 1], id, now);
      std::swap(order[k - 1], order[k]);
      place(k);
      place(--k);
      continue;
    }
    CHECK(level > 0) << "resource " << id << " is taxed beyond its capacity";
    set_level(id, level, now);
    ++k;
  }
  c.from = static_cast<uint32_t>(order.size());
}

void Sharing::find_next(Component& c, int64_t now) {
  c.next = kNever;
  for (const ResourceId id : c.order) {
    Resource& r = at(id);
    if (r.stale) {
      r.stale = false;
      advance(id, now);
      const Exact left = std::max<Exact>(0, r.first - r.progress);
      if (!(from_exact(left) / share(id).level <= kLongest)) throw_too_long();
      r.next = now + rounded_ratio(left, exact_rate(share(id).level));
    }
    c.next = std::min(c.next, r.next);
  }
}

void Sharing::update(Duration at_time, EventQueue& queue) {
  const int64_t now = at_time.picoseconds();
  if (told_ && !dirty_.empty()) told_(at_time);
  for (size_t i = 0; i < dirty_.size(); ++i) {
    const int32_t index = dirty_[i];
    Component& c = components_[static_cast<size_t>(index)];
    c.dirty = false;
    if (c.size() == 0) {  // dissolved, or merged into another
      free_components_.push_back(index);
      continue;
    }
    sweep(c, now);
    const int64_t known = c.next;
    find_next(c, now);
    if (c.next == known) continue;
    ++c.generation;
    queue.push(c.next,
               kOurs | (static_cast<uint64_t>(index) << 32) | static_cast<uint64_t>(c.generation));
  }
  dirty_.clear();
}

void Sharing::finish(const EventQueue::Event& event, std::vector<uint64_t>& ended) {
  if (!(event.payload & kOurs)) {
    ended.push_back(event.payload);
    return;
  }
  Component& c = components_[static_cast<size_t>((event.payload & ~kOurs) >> 32)];
  if (c.generation != static_cast<uint32_t>(event.payload)) return;
  // What would end within the picosecond ends now, since times are rounded to it.
  ending_.clear();
  for (const ResourceId id : c.order) {
    Resource& r = at(id);
    if (r.next > event.time) continue;
    advance(id, event.time);
    r.stale = true;
    const Exact reached = r.progress + (exact_rate(share(id).level) + 1) / 2;
    for (const Own& own : r.own) {
      if (own.mark < reached) {
        ending_.emplace_back(activities_[static_cast<size_t>(own.id)].sequence, own.id);
      }
    }
  }
  std::sort(ending_.begin(), ending_.end());
  c.next = kNever;
  for (const auto& [sequence, id] : ending_) {
    ended.push_back(activities_[static_cast<size_t>(id)].payload);
    remove(id);
  }
  if (c.activities == 0) {
    dissolve(static_cast<int32_t>(&c - components_.data()));
  } else if (ending_.empty()) {  // rounding put the end off: it comes again
    touch(c, at(c.order.front()));
  }
}

// --- questions

double Sharing::rate(ActivityId id) const {
  const Activity& a = activities_[static_cast<size_t>(id)];
  return shares_[static_cast<size_t>(a.bottleneck)].level;
}

double Sharing::remaining(ActivityId id, Duration now) const {
  const Activity& a = activities_[static_cast<size_t>(id)];
  const Resource& r = resources_[static_cast<size_t>(a.bottleneck)];
  const Exact progress = r.progress + exact_rate(rate(id)) * (now.picoseconds() - r.since);
  return from_exact(std::max<Exact>(0, r.own[a.place].mark - progress));
}

}  // namespace rehearse
