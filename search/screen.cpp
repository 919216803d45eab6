// All of a space by formulas, on threads and processes.

#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>
#include <map>
#include <mutex>

#include <nlohmann/json.hpp>

#include "search/search.h"
#include "search/share.h"

namespace rehearse {
namespace {

double tokens_of(const Candidate& c) {
  return static_cast<double>(c.batch) * static_cast<double>(c.sequence);
}

bool better(const Screened& a, const Screened& b) {
  return a.score != b.score ? a.score < b.score : before(a.candidate, b.candidate);
}

// The best so many, in no order.
class Best {
 public:
  explicit Best(size_t most) : most_(most) {}
  // Whether one of such a score could be among them.
  bool may_take(double score) const {
    return most_ > 0 && (heap_.size() < most_ || score <= heap_.front().score);
  }
  void add(Screened s) {
    if (heap_.size() == most_) {
      if (!better(s, heap_.front())) return;
      std::pop_heap(heap_.begin(), heap_.end(), better);
      heap_.back() = std::move(s);
    } else {
      heap_.push_back(std::move(s));
    }
    std::push_heap(heap_.begin(), heap_.end(), better);
  }
  std::vector<Screened> take() { return std::move(heap_); }

 private:
  size_t most_;
  std::vector<Screened> heap_;
};

// No other needs less and is faster.
class Pareto {
 public:
  bool may_take(int64_t need, double score) const {
    const auto above = front_.upper_bound(need);
    if (above == front_.begin()) return true;
    const auto& [least, s] = *std::prev(above);
    return score < s.score || (score == s.score && need == least);
  }
  void add(Screened s) {
    const int64_t need = s.estimate.need.count();
    auto at = front_.lower_bound(need);
    if (at != front_.end() && at->first == need && !better(s, at->second)) return;
    while (at != front_.end() && at->second.score >= s.score) at = front_.erase(at);
    front_.insert_or_assign(need, std::move(s));
  }
  void take_over(Screened s) {
    if (may_take(s.estimate.need.count(), s.score)) add(std::move(s));
  }
  std::vector<Screened> take() {
    std::vector<Screened> all;
    for (auto& [need, s] : front_) all.push_back(std::move(s));
    return all;
  }

 private:
  std::map<int64_t, Screened> front_;
};

// Told to take least for a token.
class Fastest {
 public:
  void take_over(const Screened& s) {
    const double seconds = s.estimate.step / tokens_of(s.candidate);
    if (seconds > seconds_ || (seconds == seconds_ && !before(s.candidate, one_->candidate)))
      return;
    seconds_ = seconds;
    one_ = s;
  }
  bool may_take(double seconds) const { return seconds <= seconds_; }
  std::optional<Screened>& one() { return one_; }

 private:
  double seconds_ = std::numeric_limits<double>::infinity();
  std::optional<Screened> one_;
};

class Screen : public SpaceVisitor {
 public:
  Screen(const Plan& base,
         const std::optional<Calibration>& calibration,
         const SearchOptions& options,
         size_t kept,
         std::atomic<int64_t>& screened)
      : base_(base),
        estimator_(base, calibration, options.imbalance),
        options_(options),
        screened_(screened),
        kept_(kept) {}

  bool block(const Candidate& common) override {
    estimator_.begin_block(common);
    first_order_ = common.layout.rank_order;
    const Scenario key{common.gpus, common.batch, common.sequence, common.precision};
    here_ = &best_.try_emplace(key, kept_).first->second;
    screened_ += count - reported_;
    reported_ = count;
    return true;
  }

  void legal(const Candidate& c) override {
    const Estimate e = estimator_.estimate(c);
    const Fit fit = fit_of(e.need, base_.cluster.memory);
    if (c.layout.rank_order == first_order_) {
      ++count;
      ++(fit == Fit::kFits ? fits : fit == Fit::kTight ? tight : short_of_memory);
    }
    const double score = score_of(c, e.step, options_.objective);
    const double bound = score_of(c, e.bound, options_.objective);
    const auto made = [&] { return Screened{c, e, score, bound}; };
    if (pareto.may_take(e.need.count(), score)) pareto.add(made());
    if (fit == Fit::kShort) return;
    if (fastest.may_take(e.step / tokens_of(c))) fastest.take_over(made());
    // An estimate may be off by a tenth.
    constexpr double kOff = 1.1;
    const auto& most = options_.most_seconds_per_token;
    if (most && e.step / tokens_of(c) > *most * kOff) return;
    bounds.push_back(static_cast<float>(bound));
    if (here_->may_take(score)) here_->add(made());
  }

  std::vector<Screened> take() {
    std::vector<Screened> all;
    for (auto& [scenario, best] : best_) {
      for (Screened& s : best.take()) all.push_back(std::move(s));
    }
    return all;
  }

  int64_t count = 0, fits = 0, tight = 0, short_of_memory = 0;
  Pareto pareto;
  Fastest fastest;
  std::vector<float> bounds;  // of all that fit
  const Estimator& estimator() const { return estimator_; }

 private:
  using Scenario = std::tuple<int64_t, int64_t, int64_t, Precision>;
  const Plan& base_;
  Estimator estimator_;
  const SearchOptions& options_;
  std::atomic<int64_t>& screened_;
  size_t kept_;
  int64_t reported_ = 0;
  RankOrder first_order_ = RankOrder::kDataFirst;
  std::map<Scenario, Best> best_;
  Best* here_ = nullptr;
};

// What all processes of a team found, on each of them.
void take_together(SearchResult& r, const Plan& base, const Team& team) {
  nlohmann::json own{{"counts", {r.legal, r.fits, r.tight, r.short_of_memory, r.blocks, r.pieces}},
                     {"stopped", r.stopped}};
  const auto list = [&](const char* name, const std::vector<Screened>& all) {
    nlohmann::json& to = own[name] = nlohmann::json::array();
    for (const Screened& s : all) to.push_back(json_of(s));
  };
  list("screened", r.screened);
  list("pareto", r.pareto);
  list("fastest", r.fastest ? std::vector<Screened>{*r.fastest} : std::vector<Screened>{});
  const std::vector<std::string> found = team.gather(own.dump());
  const std::vector<std::string> bounds = team.gather(
      std::string(reinterpret_cast<const char*>(r.bounds.data()), r.bounds.size() * sizeof(float)));
  r = {.objective = r.objective, .of_pieces = r.of_pieces};
  Pareto pareto;
  Fastest fastest;
  for (const std::string& of_one : found) {
    const nlohmann::json j = nlohmann::json::parse(of_one);
    size_t i = 0;
    r.stopped = r.stopped || j.at("stopped").get<bool>();
    for (int64_t* n : {&r.legal, &r.fits, &r.tight, &r.short_of_memory, &r.blocks, &r.pieces}) {
      *n += j.at("counts").at(i++).get<int64_t>();
    }
    for (const auto& s : j.at("screened")) r.screened.push_back(screened_of(s, base));
    for (const auto& s : j.at("pareto")) pareto.take_over(screened_of(s, base));
    for (const auto& s : j.at("fastest")) fastest.take_over(screened_of(s, base));
  }
  r.pareto = pareto.take();
  r.fastest = fastest.one();
  for (const std::string& of_one : bounds) {
    const size_t had = r.bounds.size();
    r.bounds.resize(had + of_one.size() / sizeof(float));
    std::memcpy(r.bounds.data() + had, of_one.data(), of_one.size());
  }
}

}  // namespace

SearchResult screen(const Plan& base,
                    const std::optional<Calibration>& calibration,
                    const SearchSpace& space,
                    const SearchOptions& options) {
  const Stopwatch watch;
  require_computable(base);
  SearchResult r{.objective = options.objective};
  // Each scenario has its best; the best of all come first later.
  const size_t scenarios =
      space.gpus.size() * space.batches.size() * space.sequences.size() * space.precisions.size();
  constexpr int64_t kFewest = 8;
  const auto kept = static_cast<size_t>(std::max(
      kFewest, 2 * options.simulations / static_cast<int64_t>(std::max<size_t>(1, scenarios))));
  std::atomic<int64_t> screened = 0;
  std::mutex lock;
  Pareto pareto;
  Fastest fastest;
  // Pieces of unequal size, to whoever is free; every so manyth is this process's.
  constexpr int64_t kPieces = 256;
  const Team& team = options.team;
  std::atomic<int64_t> next = team.rank;
  std::atomic<int64_t> done = 0;
  std::atomic<bool> stopped = false;
  on_threads(options.threads, [&](int32_t) {
    Screen own(base, calibration, options, kept, screened);
    for (int64_t i = next.fetch_add(team.size); i < kPieces; i = next.fetch_add(team.size)) {
      if (options.stop && options.stop()) {
        stopped = true;
        break;
      }
      ++done;
      visit_space(space, base, own, i, kPieces);
      if (!options.progress) continue;
      const std::lock_guard guard(lock);
      options.progress({.screened = screened, .pieces = i + 1, .of = kPieces});
    }
    const std::lock_guard guard(lock);
    r.legal += own.count;
    r.fits += own.fits;
    r.tight += own.tight;
    r.short_of_memory += own.short_of_memory;
    r.blocks += own.estimator().blocks_priced();
    for (Screened& s : own.take()) r.screened.push_back(std::move(s));
    if (own.fastest.one()) fastest.take_over(*own.fastest.one());
    for (Screened& s : own.pareto.take()) pareto.take_over(std::move(s));
    r.bounds.insert(r.bounds.end(), own.bounds.begin(), own.bounds.end());
  });
  r.pareto = pareto.take();
  r.fastest = fastest.one();
  r.stopped = stopped;
  r.pieces = done;
  r.of_pieces = kPieces;
  if (team.size > 1) take_together(r, base, team);
  // Each scenario's best are the same ones however the space was shared out; so is their order.
  std::sort(r.screened.begin(), r.screened.end(), better);
  if (!r.pareto.empty()) r.smallest = r.pareto.front();
  std::sort(r.bounds.begin(), r.bounds.end());
  r.screen_seconds = watch.seconds();
  return r;
}

}  // namespace rehearse
