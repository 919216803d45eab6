#include "search/search.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <mutex>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/errors.h"
#include "base/random.h"
#include "base/statistics.h"
#include "search/share.h"

namespace rehearse {
namespace {

class IllegalCounter : public SpaceVisitor {
 public:
  bool block(const Candidate&) override { return false; }
  void legal(const Candidate&) override {}
  bool wants_illegal() const override { return true; }
  void illegal(const Candidate& c, const Reason& why) override {
    // Numbers apart, one reason is as the other.
    std::string kind = why.setting + ": ";
    for (const char ch : why.message) {
      if (ch < '0' || ch > '9') kind += ch;
    }
    IllegalCount& count = counts[kind];
    if (count.count++ == 0) {
      count.example = why;
      count.layout = to_string(c);
    }
  }
  std::map<std::string, IllegalCount> counts;
};

// Layouts of r.screened, simulated by the threads of all processes; nothing for one that is given
// up. Where the search is asked to end, those that are done by then: the first of all is.
std::vector<std::optional<Scored>> simulate_wave(const Plan& base,
                                                 const std::optional<Calibration>& calibration,
                                                 const SearchOptions& options,
                                                 SearchResult& r,
                                                 const std::vector<size_t>& wave) {
  const Team& team = options.team;
  std::vector<std::optional<nlohmann::json>> found(wave.size());
  const auto candidate = [&](size_t i) -> const Candidate& {
    return r.screened[wave[i]].candidate;
  };
  // What the journal of the first process knows, all know.
  if (options.journal != nullptr) {
    for (size_t i = 0; i < wave.size(); ++i) {
      if (const auto* known = options.journal->find(candidate(i))) found[i] = *known;
    }
  }
  const auto together = [&] {
    if (team.size == 1) return;
    nlohmann::json own = {{"stopped", r.stopped}};
    for (size_t i = 0; i < wave.size(); ++i) {
      if (found[i]) own[std::to_string(i)] = *found[i];
    }
    for (const std::string& of_one : team.gather(own.dump())) {
      const nlohmann::json of_those = nlohmann::json::parse(of_one);
      for (const auto& [i, scored] : of_those.items()) {
        if (i == "stopped") {
          r.stopped = r.stopped || scored.get<bool>();
          continue;
        }
        found[static_cast<size_t>(std::stoull(i))] = scored;
      }
    }
  };
  together();
  std::vector<size_t> missing;
  for (size_t i = 0; i < wave.size(); ++i) {
    if (!found[i]) missing.push_back(i);
  }
  std::mutex lock;
  std::vector<bool> in_journal(wave.size());
  std::atomic<size_t> next = static_cast<size_t>(team.rank);
  int64_t done = r.simulated + r.pruned + r.too_long;
  on_threads(options.threads, [&](int32_t) {
    const auto step = static_cast<size_t>(team.size);
    for (size_t at = next.fetch_add(step); at < missing.size(); at = next.fetch_add(step)) {
      const size_t i = missing[at];
      if (i + static_cast<size_t>(r.simulated) > 0 && options.stop && options.stop()) {
        const std::lock_guard guard(lock);
        r.stopped = true;
        break;
      }
      const std::optional<Scored> scored =
          score_in_time(base, calibration, r.screened[wave[i]], options.objective);
      const std::lock_guard guard(lock);
      found[i] = scored ? json_of(*scored) : nlohmann::json();
      if (options.journal != nullptr) {
        options.journal->add(candidate(i), *found[i]);
        in_journal[i] = true;
      }
      done += team.size;
      if (options.progress) {
        const auto to = std::min(static_cast<int64_t>(r.screened.size()), options.simulations);
        options.progress({.screened = r.legal, .simulated = std::min(done, to), .to = to});
      }
    }
  });
  together();
  std::vector<std::optional<Scored>> all;
  for (size_t i = 0; i < wave.size(); ++i) {
    if (!found[i]) continue;  // the search ended before
    if (options.journal != nullptr && !in_journal[i] &&
        options.journal->find(candidate(i)) == nullptr) {
      options.journal->add(candidate(i), *found[i]);
    }
    all.push_back(found[i]->is_null()
                      ? std::nullopt
                      : std::optional(scored_of(*found[i], base, r.screened[wave[i]])));
  }
  return all;
}

}  // namespace

void simulate_best(const Plan& base,
                   const std::optional<Calibration>& calibration,
                   const SearchOptions& options,
                   SearchResult& r) {
  const Stopwatch watch;
  const auto count =
      std::min(r.screened.size(), static_cast<size_t>(std::max<int64_t>(0, options.simulations)));
  const auto shown = static_cast<size_t>(options.shown);
  std::vector<double> scores;  // of what was simulated, ascending
  std::vector<double> bounds;  // likewise
  // In waves, between which what cannot be among those shown is left out: so that all processes,
  // however many and of however many threads, simulate the same.
  for (size_t next = 0; next < count && !(r.stopped && r.simulated > 0);) {
    constexpr size_t kWave = 32;
    std::vector<size_t> wave;
    for (; next < count && wave.size() < kWave; ++next) {
      if (scores.size() >= shown && r.screened[next].bound > scores[shown - 1]) {
        ++r.pruned;
      } else {
        wave.push_back(next);
      }
    }
    const std::vector<std::optional<Scored>> simulated =
        simulate_wave(base, calibration, options, r, wave);
    for (const std::optional<Scored>& s : simulated) {
      if (!s) {
        ++r.too_long;
        continue;
      }
      scores.insert(std::lower_bound(scores.begin(), scores.end(), s->score), s->score);
      bounds.push_back(s->screened.bound);
      r.best.push_back(*s);
      ++r.simulated;
    }
  }
  std::sort(r.best.begin(), r.best.end(), [](const Scored& a, const Scored& b) {
    if (a.score != b.score) return a.score < b.score;
    return before(a.screened.candidate, b.screened.candidate);
  });
  if (!r.best.empty()) {
    const double least = r.best.front().score;
    const auto below =
        std::lower_bound(r.bounds.begin(), r.bounds.end(), static_cast<float>(least));
    r.unproven = below - r.bounds.begin();
    for (const double b : bounds) r.unproven -= b < least ? 1 : 0;
    r.unproven = std::max<int64_t>(0, r.unproven);
  }
  r.simulate_seconds += watch.seconds();
}

SearchResult search(const Plan& base,
                    const std::optional<Calibration>& calibration,
                    const SearchSpace& space,
                    const SearchOptions& options) {
  SearchResult r = screen(base, calibration, space, options);
  simulate_best(base, calibration, options, r);
  return r;
}

namespace {

class Sampler : public SpaceVisitor {
 public:
  Sampler(int64_t most, uint64_t seed) : most_(most), state_(seed) {}
  bool block(const Candidate&) override { return true; }
  void legal(const Candidate& c) override {
    ++seen_;
    if (static_cast<int64_t>(drawn.size()) < most_) {
      drawn.push_back(c);
      return;
    }
    state_ = split_mix(state_);
    const uint64_t at = state_ % static_cast<uint64_t>(seen_);
    if (at < static_cast<uint64_t>(most_)) drawn[at] = c;
  }
  std::vector<Candidate> drawn;

 private:
  int64_t most_;
  int64_t seen_ = 0;
  uint64_t state_;
};

}  // namespace

std::vector<Candidate> sample(const Plan& base,
                              const SearchSpace& space,
                              int64_t count,
                              uint64_t seed) {
  Sampler sampler(count, split_mix(seed));
  visit_space(space, base, sampler);
  return std::move(sampler.drawn);
}

ScreenError judge_screen(const Plan& base,
                         const std::optional<Calibration>& calibration,
                         const SearchSpace& space,
                         int64_t count,
                         int32_t threads,
                         uint64_t seed) {
  // Half of what is legal seldom fits: those that do, of enough.
  constexpr int64_t kEnough = 8;
  Estimator estimator(base, calibration);
  std::vector<Screened> all;
  for (const Candidate& c : sample(base, space, kEnough * count, seed)) {
    if (static_cast<int64_t>(all.size()) == count) break;
    estimator.begin_block(c);
    const Estimate e = estimator.estimate(c);
    if (fit_of(e.need, base.cluster.memory) == Fit::kShort) continue;
    all.push_back({c, e, score_of(c, e.step, Objective::kCost), 0});
  }
  std::vector<double> told, simulated;
  std::atomic<size_t> next = 0;
  ScreenError e;
  std::mutex lock;
  on_threads(threads, [&](int32_t) {
    for (size_t i = next++; i < all.size(); i = next++) {
      const std::optional<Scored> in_time =
          score_in_time(base, calibration, all[i], Objective::kCost);
      const std::lock_guard guard(lock);
      if (!in_time) {
        ++e.too_long;
        continue;
      }
      const Scored& s = *in_time;
      told.push_back(all[i].score);
      simulated.push_back(s.score);
      const double error = all[i].estimate.step / s.step - 1;
      e.mean_absolute += std::abs(error);
      e.bias += error;
      e.tightest_bound = std::max(e.tightest_bound, all[i].estimate.bound / s.step);
    }
  });
  e.layouts = static_cast<int64_t>(told.size());
  e.mean_absolute /= std::max(1.0, static_cast<double>(told.size()));
  e.bias /= std::max(1.0, static_cast<double>(told.size()));
  e.rank_correlation = rank_correlation(told, simulated);
  return e;
}

std::vector<IllegalCount> count_illegal(const Plan& base, const SearchSpace& space) {
  IllegalCounter counter;
  visit_space(space, base, counter);
  std::vector<IllegalCount> all;
  for (auto& [kind, count] : counter.counts) all.push_back(std::move(count));
  std::sort(all.begin(), all.end(), [](const IllegalCount& a, const IllegalCount& b) {
    return a.count > b.count;
  });
  return all;
}

}  // namespace rehearse
