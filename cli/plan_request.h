#pragma once
// What `rehearse plan` is asked: options and plan file as a plan to start from and a space to
// search.

#include "cli/command.h"
#include "search/questions.h"

namespace rehearse::cli {

// A plan whose layout is to be found. Throw InputError, or UsageError naming the option.
Plan base_of(const Options& options);
SearchSpace space_of(const Options& options, const Plan& base);
Objective objective_of(const Options& options);
Grown grown_of(const Options& options);
// Of --days; throws UsageError where the plan's tokens are not known.
std::optional<double> days_of(const Options& options, const Plan& base);
// Of --phase and of the plan's budget.
std::vector<PhaseAsked> phases_of(const Options& options, const Plan& base);
// Seconds, of --measured.
std::optional<double> measured_of(const Options& options);
// A layout that is in use: of a plan file, or of Megatron-LM's arguments.
Candidate present_of(const std::string& path, const Plan& base, const SearchSpace& space);
// What the simulation of a layout hangs on beside the layout, files by what they hold: what a
// journal is of.
std::string question_of(const Plan& base,
                        const std::optional<std::string>& calibration,
                        Objective objective);
// The same question again, as options, for commands that make a row again.
std::string asked(const Options& options);

}  // namespace rehearse::cli
