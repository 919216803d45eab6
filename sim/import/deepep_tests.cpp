#include <map>
#include <regex>

#include <fmt/format.h>

#include "base/errors.h"
#include "base/numbers.h"
#include "sim/import/link_benchmarks.h"
#include "sim/import/log_lines.h"

namespace rehearse {

namespace {

// DeepEP counts tokens that stay on their node or rank too: of two nodes half of them, of more
// fewer. What is above twice the line's rate is of another cluster. Empty where it may be.
std::string above_line(double rate, const std::optional<Link>& link, std::string_view name) {
  constexpr double kReached = 0.75;  // stated rates are often what applications reach of the line's
  if (!link || rate <= 2 * link->bandwidth.value() / kReached) return "";
  return fmt::format(
      "{} of {}, over twice the line rate of the plan's cluster ({} stated): it was not measured "
      "there",
      name,
      to_string(BytesPerSecond(rate)),
      to_string(link->bandwidth));
}

}  // namespace

LinkBenchmark parse_deepep_tests(const std::string& text,
                                 const std::string& path,
                                 const LinkTarget& target) {
  // "[tuning] Best dispatch (FP8): SMs 24, NVL chunk 12, RDMA chunk 32: 42.36 GB/s (RDMA), 138.25
  // GB/s (NVL)"; within a node there is no RDMA. Several may stand on one line, where processes
  // write at once.
  static const std::regex kBest(R"(Best (dispatch|combine)([^:]*): SMs (\d+))");
  static const std::regex kRate(R"(([0-9.]+) GB/s \((RDMA|NVL)\))");
  LinkBenchmark b;
  std::map<std::string, int64_t> seen;  // line of each op and format
  for (const LogLine& line : lines_of(text)) {
    const auto refuse = [&](const std::string& why) {
      throw InputError(fmt::format("{}:{}: {}", path, line.number, why));
    };
    std::vector<size_t> begins;
    for (size_t at = line.text.find("Best "); at != std::string::npos;
         at = line.text.find("Best ", at + 1)) {
      begins.push_back(at);
    }
    for (size_t i = 0; i < begins.size(); ++i) {
      const std::string part = line.text.substr(
          begins[i], (i + 1 < begins.size() ? begins[i + 1] : line.text.size()) - begins[i]);
      std::smatch best;
      if (!std::regex_search(part, best, kBest)) continue;
      LinkBenchmark::AllToAll a{.op = best[1],
                                .fp8 = best[2].str().find("FP8") != std::string::npos};
      const std::string what = a.op + (a.fp8 ? " (FP8)" : "");
      const auto sms = number_of(best[3]);
      if (!sms || *sms < 1 || *sms > 10'000) refuse(best[3].str() + " SMs");
      a.sms = static_cast<int64_t>(*sms);
      for (std::sregex_iterator r(part.begin(), part.end(), kRate), end; r != end; ++r) {
        const auto rate = number_of((*r)[1]);
        if (!rate || *rate <= 0)
          refuse(fmt::format("a rate of {} GB/s", (*r)[1].str().substr(0, 40)));
        if ((*r)[2] == "RDMA") a.across = *rate * 1e9;
        if ((*r)[2] == "NVL") a.within = *rate * 1e9;
      }
      if (a.within <= 0) refuse("expected '... GB/s (NVL)'");
      if (target.cluster != nullptr) {
        std::string wrong = above_line(a.within, target.cluster->node_link, "NVL");
        if (wrong.empty() && a.across) {
          wrong = above_line(*a.across, target.cluster->network, "RDMA");
        }
        if (!wrong.empty()) refuse(wrong);
      }
      if (const auto [known, is_new] = seen.emplace(what, line.number); !is_new) {
        refuse(fmt::format("a second best {} (the first is in line {}): several runs in one file",
                           what,
                           known->second));
      }
      b.all_to_alls.push_back(a);
    }
  }
  if (b.all_to_alls.empty()) {
    throw InputError(path + ": has no lines '[tuning] Best dispatch ...' or '... combine ...'");
  }
  b.source = fmt::format("DeepEP, {} best figures", b.all_to_alls.size());
  return b;
}

}  // namespace rehearse
