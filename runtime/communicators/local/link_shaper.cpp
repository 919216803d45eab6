#include "runtime/communicators/local/link_shaper.h"

#include <algorithm>
#include <limits>

#include "runtime/precise_sleep.h"

namespace rehearse {
namespace {

// Ports that fill up together do so but for the rounding of a few divisions.
constexpr double kRounding = 1e-12;

using Seconds = std::chrono::duration<double>;

std::chrono::steady_clock::duration ticks(double seconds) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(Seconds(seconds));
}

}  // namespace

LinkShaper::LinkShaper(const Cluster& cluster, int64_t ranks)
    : cluster_(cluster),
      ranks_(ranks),
      // Where ranks compute in real time, a thread that waits awake would take a core from them.
      awake_before_(cluster.emulated() ? kAwakeBefore : kAwakeBefore.zero()) {
  const auto add = [&](const std::optional<Link>& link) {
    const double rate = link ? link->bandwidth.value() : 1;
    capacity_.insert(capacity_.end(), static_cast<size_t>(2 * ranks), rate);
  };
  add(cluster.node_link);
  add(cluster.network);
  thread_ = std::thread([this] { run(); });
}

LinkShaper::~LinkShaper() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void LinkShaper::transfer(int64_t from, int64_t to, Bytes size, std::function<void()> delivered) {
  const bool same_node = from / cluster_.devices_per_node == to / cluster_.devices_per_node;
  const std::optional<Link>& link = same_node ? cluster_.node_link : cluster_.network;
  if (!link) {
    delivered();
    return;
  }
  const size_t base = same_node ? 0 : static_cast<size_t>(2 * ranks_);
  {
    const std::lock_guard lock(mutex_);
    advance(Clock::now());
    counts_[{from, to}] += size.count();
    flows_.push_back({.out = base + static_cast<size_t>(from),
                      .in = base + static_cast<size_t>(ranks_ + to),
                      .left = static_cast<double>(size.count()),
                      .latency = link->latency,
                      .delivered = std::move(delivered)});
    share();
    ++changes_;
  }
  changed_.notify_all();
}

// Max-min rates by filling: all rates rise until a port is full, its flows stop, the others go on.
void LinkShaper::share() {
  std::vector<double> left = capacity_;
  std::vector<int64_t> rising(capacity_.size(), 0);
  for (Flow& f : flows_) {
    f.rising = true;
    ++rising[f.out];
    ++rising[f.in];
  }
  for (size_t settled = 0; settled < flows_.size();) {
    double level = std::numeric_limits<double>::infinity();
    for (size_t p = 0; p < left.size(); ++p) {
      if (rising[p] > 0) level = std::min(level, left[p] / static_cast<double>(rising[p]));
    }
    const auto full = [&](size_t p) {
      return left[p] <= level * (1 + kRounding) * static_cast<double>(rising[p]);
    };
    std::vector<Flow*> stopping;
    for (Flow& f : flows_) {
      if (f.rising && (full(f.out) || full(f.in))) stopping.push_back(&f);
    }
    for (Flow* f : stopping) {
      f->rate = level;
      f->rising = false;
      for (const size_t p : {f->out, f->in}) {
        left[p] = std::max(0.0, left[p] - level);
        --rising[p];
      }
    }
    settled += stopping.size();
  }
}

// Moves the flows on to `to`; those that end on the way leave at the moment they end, so that a
// late wake-up of the thread costs the others nothing.
void LinkShaper::advance(Clock::time_point to) {
  while (!flows_.empty()) {
    const auto ends = [](const Flow& f) { return f.left / f.rate; };
    const auto first = std::min_element(
        flows_.begin(), flows_.end(), [&](auto& a, auto& b) { return ends(a) < ends(b); });
    const Clock::time_point end = now_ + ticks(ends(*first));
    if (end > to) break;
    const double passed = ends(*first);
    for (Flow& f : flows_) f.left = std::max(0.0, f.left - f.rate * passed);
    now_ = std::max(now_, end);
    arriving_.emplace(now_ + ticks(first->latency.seconds()), std::move(first->delivered));
    flows_.erase(first);
    share();
  }
  const double passed = Seconds(to - now_).count();
  if (passed <= 0) return;
  for (Flow& f : flows_) f.left = std::max(0.0, f.left - f.rate * passed);
  now_ = to;
}

void LinkShaper::run() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    advance(Clock::now());
    std::vector<std::function<void()>> due;
    while (!arriving_.empty() && arriving_.begin()->first <= Clock::now()) {
      due.push_back(std::move(arriving_.begin()->second));
      arriving_.erase(arriving_.begin());
    }
    if (!due.empty()) {
      lock.unlock();
      for (const auto& delivered : due) delivered();
      lock.lock();
      continue;
    }
    const int64_t seen = changes_;
    Clock::time_point next = Clock::time_point::max();
    for (const Flow& f : flows_) next = std::min(next, now_ + ticks(f.left / f.rate));
    if (!arriving_.empty()) next = std::min(next, arriving_.begin()->first);
    if (next == Clock::time_point::max()) {
      changed_.wait(lock);
    } else {
      changed_.wait_until(lock, next - awake_before_);
      while (Clock::now() < next && Clock::now() >= next - awake_before_ && !stop_) {
        lock.unlock();
        std::this_thread::yield();
        lock.lock();
        if (changes_ != seen) break;
      }
    }
  }
}

std::map<std::pair<int64_t, int64_t>, int64_t> LinkShaper::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace rehearse
