// The best spreading of one micro-batch's tokens over replicas, by linear programming: what
// token-level balancing (as LPLB does it) can reach, and a bound to every other spreading.

#include <algorithm>
#include <map>

#include <coin/ClpSimplex.hpp>
#include <coin/CoinPackedMatrix.hpp>

#include "base/errors.h"
#include "plan/routing/replicas.h"

namespace rehearse {

// Variables: tokens of every (expert, rank) that holds it, and the fullest rank's T. Rows: an
// expert's tokens add up; a rank's stay below T.
TokenSpread best_spread(const Placement& p, const std::vector<double>& loads) {
  std::map<std::pair<int32_t, int64_t>, int> variables;
  for (size_t s = 0; s < p.expert_of.size(); ++s) {
    variables.try_emplace({p.expert_of[s], p.rank_of(static_cast<int64_t>(s))}, 0);
  }
  const int experts = static_cast<int>(p.experts);
  const int ranks = static_cast<int>(p.ranks());
  const int columns = static_cast<int>(variables.size()) + 1;
  std::vector<int> rows, starts;
  std::vector<double> values;
  int next = 0;
  for (auto& [key, column] : variables) {
    column = next++;
    starts.push_back(static_cast<int>(rows.size()));
    rows.insert(rows.end(), {key.first, experts + static_cast<int>(key.second)});
    values.insert(values.end(), {1, 1});
  }
  starts.push_back(static_cast<int>(rows.size()));
  for (int r = 0; r < ranks; ++r) {
    rows.push_back(experts + r);
    values.push_back(-1);
  }
  starts.push_back(static_cast<int>(rows.size()));
  double all = 0;
  for (const double w : loads) all += w;
  std::vector<double> low(static_cast<size_t>(columns), 0);
  std::vector<double> high(static_cast<size_t>(columns), all + 1);
  std::vector<double> cost(static_cast<size_t>(columns), 0);
  cost.back() = 1;
  std::vector<double> row_low(static_cast<size_t>(experts + ranks), -COIN_DBL_MAX);
  std::vector<double> row_high(static_cast<size_t>(experts + ranks), 0);
  for (int e = 0; e < experts; ++e) {
    row_low[static_cast<size_t>(e)] = row_high[static_cast<size_t>(e)] =
        loads[static_cast<size_t>(e)];
  }
  ClpSimplex lp;
  lp.setLogLevel(0);
  lp.loadProblem(columns,
                 experts + ranks,
                 starts.data(),
                 rows.data(),
                 values.data(),
                 low.data(),
                 high.data(),
                 cost.data(),
                 row_low.data(),
                 row_high.data());
  lp.dual();
  CHECK(lp.isProvenOptimal()) << "no spreading found";
  const double* solution = lp.primalColumnSolution();
  TokenSpread spread{.slot_loads = std::vector<double>(p.expert_of.size(), 0),
                     .fullest = solution[columns - 1]};
  // Where a rank holds an expert twice, its first slot has all.
  for (size_t s = 0; s < p.expert_of.size(); ++s) {
    const auto at = variables.find({p.expert_of[s], p.rank_of(static_cast<int64_t>(s))});
    if (at == variables.end()) continue;
    spread.slot_loads[s] = std::max(0.0, solution[at->second]);
    variables.erase(at);
  }
  return spread;
}

}  // namespace rehearse
