#include "kernels/checking/supervisor.h"

#include <csignal>
#include <cstdlib>
#include <stdexcept>

#include <gtest/gtest.h>
#include <unistd.h>

namespace rehearse::kernels {
namespace {

Job says(const std::string& text) {
  return {text, [text](const Emit& emit) { emit({true, text, ""}); }};
}

// Texts of the results, "-" before those that failed.
std::vector<std::string> results_of(
    const std::vector<Job>& jobs, std::function<bool()> broken = [] { return false; }) {
  std::vector<std::string> out;
  supervise(jobs,
            {.prepare = [] {}, .broken = std::move(broken), .limit_s = 1},
            [&](const Result& r) { out.push_back((r.passed ? "" : "-") + r.text); });
  return out;
}

TEST(Supervisor, AHangACrashAndAnExceptionCostNoOtherJob) {
  const std::vector<std::string> results = results_of({
      says("one"),
      {"hangs",
       [](const Emit& emit) {
         emit({true, "begun", ""});
         for (;;) pause();
       }},
      says("two"),
      {"crashes", [](const Emit&) { std::raise(SIGKILL); }},
      says("three"),
      {"ends", [](const Emit&) { _exit(5); }},
      says("four"),
      {"throws", [](const Emit&) { throw std::runtime_error("what it says"); }},
      says("five"),
  });
  EXPECT_EQ(results,
            (std::vector<std::string>{"one",
                                      "begun",
                                      "-FAIL  hangs: not done within 1 s",
                                      "two",
                                      "-FAIL  crashes: ended by Killed",
                                      "three",
                                      "-FAIL  ends: ended with exit code 5",
                                      "four",
                                      "-throws: what it says",
                                      "five"}));
}

TEST(Supervisor, AProcessThatIsOfNoMoreUseIsReplaced) {
  // Each process counts its own jobs.
  static int jobs_here = 0;
  const Job counts = {"counts", [](const Emit& emit) {
                        emit({true, std::to_string(++jobs_here), ""});
                      }};
  EXPECT_EQ(results_of({counts, counts, counts, counts, counts}, [] { return jobs_here == 2; }),
            (std::vector<std::string>{"1", "2", "1", "2", "1"}));
}

TEST(Supervisor, GivesUpWhereNoProcessEndsItsFirstJob) {
  const Job crashes = {"crashes", [](const Emit&) { std::abort(); }};
  EXPECT_THROW(results_of({crashes, crashes, crashes, crashes, crashes}), std::runtime_error);
  try {
    supervise(
        {says("one")},
        {.prepare = [] { throw std::runtime_error("no GPU"); }, .broken = [] { return false; }},
        [](const Result&) { ADD_FAILURE(); });
    ADD_FAILURE();
  } catch (const std::runtime_error& e) {
    EXPECT_STREQ(e.what(), "no GPU");
  }
}

}  // namespace
}  // namespace rehearse::kernels
