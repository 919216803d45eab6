#include "plan/schedules.h"

#include <array>

#include <fmt/format.h>

namespace rehearse {
namespace {

std::string any_ranks(int64_t) {
  return "";
}
std::string any_micro_batches(int64_t, int64_t) {
  return "";
}

std::string even_ranks(int64_t pp) {
  if (pp % 2 == 0) return "";
  return fmt::format(
      "dualpipe needs an even number of pipeline ranks, found {}; use {} or {}, or another "
      "schedule",
      pp,
      pp > 1 ? pp - 1 : 2,
      pp > 1 ? pp + 1 : 4);
}

std::string multiple_of_ranks(int64_t pp, int64_t n) {
  if (n % pp == 0) return "";
  return fmt::format(
      "interleaved-1f1b on {} pipeline ranks needs a multiple of {} micro-batches; found {}, use "
      "{}",
      pp,
      pp,
      n,
      (n / pp + 1) * pp);
}

std::string even_and_enough(int64_t pp, int64_t n) {
  if (n % 2 == 0 && n >= 2 * pp) return "";
  return fmt::format(
      "dualpipe on {} pipeline ranks needs an even number of micro-batches, at least {}; "
      "found {}",
      pp,
      2 * pp,
      n);
}

std::string enough(int64_t pp, int64_t n) {
  if (n >= 2 * pp) return "";
  return fmt::format(
      "dualpipev on {} pipeline ranks needs at least {} micro-batches; found {}", pp, 2 * pp, n);
}

double bubble_1f1b(double pp, const ChunkCosts& c) {
  return (pp - 1) * (c.f + c.b);
}
double bubble_zb1p(double pp, const ChunkCosts& c) {
  return (pp - 1) * (c.f + c.b - 2 * c.w);
}
double bubble_dualpipe(double pp, const ChunkCosts& c) {
  return (pp / 2 - 1) * (c.fb + c.b - 3 * c.w);
}
double bubble_dualpipev(double pp, const ChunkCosts& c) {
  return (pp - 1) * (c.fb + c.b - 3 * c.w);
}

int64_t peak_ranks(int64_t pp, int64_t) {
  return pp;
}
int64_t peak_interleaved(int64_t pp, int64_t chunks) {
  return pp * (chunks + 1) - 1;
}
int64_t peak_dualpipe(int64_t pp, int64_t) {
  return pp + 1;
}
int64_t peak_dualpipev(int64_t pp, int64_t) {
  return 2 * pp + 1;
}

// In the order of ScheduleKind.
constexpr std::array<ScheduleFacts, kSchedules.size()> kFacts = {{
    {.kind = ScheduleKind::k1F1B,
     .way = Way::kOnce,
     .check_ranks = any_ranks,
     .check_micro_batches = any_micro_batches,
     .bubble = bubble_1f1b,
     .bubble_text = "(PP-1)(F+B)",
     .peak_micro_batches = peak_ranks,
     .peak_text = "PP",
     .parameters_text = "1 stage of PP"},
    {.kind = ScheduleKind::kInterleaved,
     .way = Way::kRoundAgain,
     .check_ranks = any_ranks,
     .check_micro_batches = multiple_of_ranks,
     .bubble = bubble_1f1b,
     .bubble_text = "(PP-1)(F+B), F and B of one chunk",
     .peak_micro_batches = peak_interleaved,
     .peak_text = "PP(chunks+1)-1, each of one chunk",
     .parameters_text = "chunks stages of PP x chunks"},
    {.kind = ScheduleKind::kZB1P,
     .way = Way::kOnce,
     .check_ranks = any_ranks,
     .check_micro_batches = any_micro_batches,
     .bubble = bubble_zb1p,
     .bubble_text = "(PP-1)(F+B-2W)",
     .peak_micro_batches = peak_ranks,
     .peak_text = "PP",
     .parameters_text = "1 stage of PP"},
    {.kind = ScheduleKind::kDualPipe,
     .way = Way::kFromBothEnds,
     .check_ranks = even_ranks,
     .check_micro_batches = even_and_enough,
     .bubble = bubble_dualpipe,
     .bubble_text = "(PP/2-1)(F&B+B-3W)",
     .peak_micro_batches = peak_dualpipe,
     .peak_text = "PP+1",
     .parameters_text = "2 stages of PP"},
    {.kind = ScheduleKind::kDualPipeV,
     .way = Way::kThereAndBack,
     .check_ranks = any_ranks,
     .check_micro_batches = enough,
     .bubble = bubble_dualpipev,
     .bubble_text = "(stages/2-1)(F&B+B-3W), stages = 2 PP",
     .peak_micro_batches = peak_dualpipev,
     .peak_text = "stages+1",
     .parameters_text = "2 stages of 2 PP"},
}};
static_assert([] {
  for (size_t i = 0; i < kFacts.size(); ++i) {
    if (static_cast<size_t>(kFacts[i].kind) != i || kFacts[i].bubble == nullptr) return false;
  }
  return true;
}());

}  // namespace

const ScheduleFacts& facts_of(ScheduleKind kind, bool overlapped) {
  if (overlapped && kind == ScheduleKind::k1F1B) {
    static const ScheduleFacts facts = [] {
      ScheduleFacts f = facts_of(ScheduleKind::k1F1B);
      f.bubble_text = "(PP-1)(F+B), F&B = F+B";
      f.peak_micro_batches = [](int64_t pp, int64_t) { return 2 * pp; };
      f.peak_text = "2 PP";
      return f;
    }();
    return facts;
  }
  if (overlapped && kind == ScheduleKind::kInterleaved) {
    static const ScheduleFacts facts = [] {
      ScheduleFacts f = facts_of(ScheduleKind::kInterleaved);
      f.bubble_text = "(PP-1)(F+B), F and B of one chunk, F&B = F+B";
      f.peak_micro_batches = [](int64_t pp, int64_t chunks) { return pp * (chunks + 1); };
      f.peak_text = "PP(chunks+1), each of one chunk";
      return f;
    }();
    return facts;
  }
  return kFacts.at(static_cast<size_t>(kind));
}

}  // namespace rehearse
