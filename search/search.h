#pragma once
// The search: every legal layout screened by formulas, the best simulated, ranked, with what each
// is limited by.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "plan/program/memory.h"
#include "search/estimate.h"
#include "search/space.h"
#include "sim/simulate.h"

namespace rehearse {

// What makes one layout better than another.
enum class Objective : uint8_t {
  kTime,  // of the training
  kCost,  // GPU-hours
  kGpus,  // how many: of equally many the fastest
};
inline constexpr NameTable kObjectives{std::to_array<Named<Objective>>(
    {{Objective::kTime, "time"}, {Objective::kCost, "cost"}, {Objective::kGpus, "gpus"}})};
static_assert(kObjectives.complete());

class Journal;

// Processes that share a search, each with the same question; all come to the same answer.
struct Team {
  int64_t rank = 0, size = 1;
  // Of every process, in the order of their ranks. REQUIRES: all call it.
  std::function<std::vector<std::string>(const std::string&)> gather;
};

struct SearchOptions {
  Objective objective = Objective::kTime;
  int64_t simulations = 200;  // at most, over all
  int64_t shown = 20;         // of the best: bounds prune what cannot be among them
  int32_t threads = 1;
  double imbalance = 1;  // of expert rows, for memory
  std::optional<double>
      most_seconds_per_token;  // layouts that are told to take longer are left out
  // Now and then, by one thread at a time; may throw to end the search.
  struct Done {
    int64_t screened = 0;           // layouts of this process
    int64_t pieces = 0, of = 0;     // of the screened space
    int64_t simulated = 0, to = 0;  // layouts; 0 to simulate: still screening
  };
  std::function<void(const Done&)> progress;
  // Asked between layouts: whether to end with what there is by then (SearchResult::stopped).
  std::function<bool()> stop;
  Team team;
  Journal* journal = nullptr;  // of what is simulated; of the team's first process
};

// A layout that was screened.
struct Screened {
  Candidate candidate;
  Estimate estimate;
  double score = 0;  // told (score_of): less is better
  double bound = 0;  // no less, simulated
};

// A layout that was simulated.
struct Scored {
  Screened screened;
  double step = 0, low = 0, high = 0;  // seconds, and the 90% interval
  double score = 0;
  double bubble = 0, exposed = 0, exposed_shared = 0, waiting = 0, optimizer = 0;  // shares
  RankMemory memory;  // of the fullest rank
  int64_t fullest = 0;
  Fit fit = Fit::kFits;
  bool extrapolated = false;  // from two steps of fewer micro-batches
  bool runnable = false;
  std::string not_runnable;  // why not
  std::string limited_by;    // in a line
};

struct SearchResult {
  Objective objective = Objective::kTime;
  int64_t legal = 0;  // distinct: pipeline, groups, schedule, micro-batches, ZeRO, recompute,
                      // stages; another order of ranks makes no other layout
  int64_t fits = 0, tight = 0, short_of_memory = 0;
  int64_t blocks = 0;  // distinct prices of a layer
  int64_t simulated = 0, pruned = 0;
  // Asked to end early: after so many of the space's pieces; of the best so far at least one was
  // simulated.
  bool stopped = false;
  int64_t pieces = 0, of_pieces = 0;
  int64_t too_long = 0;  // given up: their ranks do not fold
  // Layouts that fit, were not simulated, and could by their bound still beat the best.
  int64_t unproven = 0;
  double screen_seconds = 0, simulate_seconds = 0;  // on the clock
  std::vector<Scored> best;                         // best first
  // Of all that were screened, fitting or not: no other needs less memory and is faster. By memory.
  std::vector<Screened> pareto;
  std::optional<Screened> smallest;  // of any legal layout's needs
  std::optional<Screened> fastest;   // told to be, of those that fit
  std::vector<Screened> screened;    // by score, the best that fit
  std::vector<float> bounds;         // of all that fit, ascending
};

// base: its layout's dispatcher, overlaps and so on hold for all. space: filled. Throws InputError
// where the devices cannot compute what is asked.
SearchResult search(const Plan& base,
                    const std::optional<Calibration>& calibration,
                    const SearchSpace& space,
                    const SearchOptions& options);
// The first half, and one simulation of the second. screen() fills all but what is simulated.
SearchResult screen(const Plan& base,
                    const std::optional<Calibration>& calibration,
                    const SearchSpace& space,
                    const SearchOptions& options);
void simulate_best(const Plan& base,
                   const std::optional<Calibration>& calibration,
                   const SearchOptions& options,
                   SearchResult& result);
Scored score(const Plan& base,
             const std::optional<Calibration>& calibration,
             const Screened& screened,
             Objective objective,
             int64_t most_ops = INT64_MAX);

// One candidate, screened by itself.
Screened screened_alone(const Plan& base,
                        const std::optional<Calibration>& calibration,
                        const Candidate& candidate,
                        Objective objective,
                        double imbalance = 1);

// What is known of it without simulating: memory, and whether it runs.
void complete(const Plan& base, Scored& scored);

// The same; nothing where its ranks do not fold and it has more ops than are worth the time.
std::optional<Scored> score_in_time(const Plan& base,
                                    const std::optional<Calibration>& calibration,
                                    const Screened& screened,
                                    Objective objective);

// Seconds or GPU-seconds per token of steps that take `step` seconds; or GPUs, and a part of one.
double score_of(const Candidate& candidate, double step, Objective objective);

// Standard deviation of the logarithm of a step's time, from the spread of its parts: what each
// kind of work that was not measured is off by, in proportion to its share.
double spread_of(const Calibration& calibration, const Plan& plan, const Prediction& prediction);

// So many of a space's legal candidates, drawn evenly; fewer where there are not so many.
std::vector<Candidate> sample(const Plan& base,
                              const SearchSpace& space,
                              int64_t count,
                              uint64_t seed);
// How well the screen tells what is simulated, over such a sample that fits in memory.
struct ScreenError {
  int64_t layouts = 0, too_long = 0;
  double rank_correlation = 0;         // Spearman's
  double mean_absolute = 0, bias = 0;  // of the estimate, relative
  double tightest_bound = 0;           // the largest bound over what was simulated: at most 1
};
ScreenError judge_screen(const Plan& base,
                         const std::optional<Calibration>& calibration,
                         const SearchSpace& space,
                         int64_t count,
                         int32_t threads,
                         uint64_t seed = 1);

// How many illegal combinations a space has, by reason.
struct IllegalCount {
  Reason example;
  std::string layout;  // of the example
  int64_t count = 0;
};
std::vector<IllegalCount> count_illegal(const Plan& base, const SearchSpace& space);

}  // namespace rehearse
