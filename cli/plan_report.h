#pragma once
// Reports of a search.

#include "cli/report.h"
#include "search/search.h"
#include "search/sensitivity.h"

namespace rehearse::cli {

// What a layout means to a training.
struct PlanFigures {
  double tokens_per_second_per_gpu = 0;
  double mfu = 0;  // causal attention, against the devices' BF16 peak (FLOPs: layers and head)
  double gpu_hours_per_trillion = 0;
  std::optional<double> gpu_hours, days;  // of the whole training, where its tokens are known
};
PlanFigures figures_of(const Plan& base, const Candidate& candidate, double step);

// The options that name a candidate: `rehearse plan` with them shows it alone.
std::string command_of(const Plan& base, const Candidate& candidate, const std::string& further);
// The line that starts Megatron-LM's training script on as many devices.
std::string launch_line(const Plan& base, const Candidate& candidate);

// Layers of its stages, runs of equal ones in one: "40,8", "2,3x30,2".
std::string stages_text(const Layout& layout);

// Within a layout's own interval of the best: those in front cannot be told apart.
size_t tied(const SearchResult& result);

// How many layouts there were, and what became of them.
// Says so where the search ended early; `journal`: the file that goes on from it, empty: none.
void put_unfinished(Report& r, const SearchResult& result, const std::string& journal);
void put_counts(Report& report, const SearchResult& result);
void put_layouts(Report& report,
                 const Plan& base,
                 const SearchResult& result,
                 const std::string& further,
                 size_t shown);
// Need and time of those that no other beats in both, as rows and as a drawing.
void put_pareto(Report& report, const Plan& base, const SearchResult& result);
// What one rank holds, at which moment, and ways to need less.
std::string memory_text(const Plan& base, const Screened& screened);

// The present layout beside the best, part by part; and beside what it was measured to take.
void put_present(Report& report,
                 const Plan& base,
                 const std::optional<Calibration>& calibration,
                 const Candidate& present,
                 const SearchResult& result,
                 Objective objective,
                 std::optional<double> measured);
// What a layout's step hangs on, and what other hardware would make of it. step: seconds.
void put_sensitivities(Report& report,
                       const std::vector<Sensitivity>& slopes,
                       const std::vector<WhatIf>& others,
                       double step);
// Of faster layouts that need more memory than there is the smallest: how much.
void put_nearest(Report& report, const Plan& base, const SearchResult& result);
// Why nothing fits, and what would help. ways: memory_ways_text. REQUIRES: result.smallest.
std::string nothing_fits(const Plan& base, const SearchResult& result, const std::string& ways);

std::string print_csv(const Plan& base, const SearchResult& result);

}  // namespace rehearse::cli
