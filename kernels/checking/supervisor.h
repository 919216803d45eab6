#pragma once
// Jobs one after the other in a process of their own: one that hangs, crashes or leaves the GPU
// unusable fails by itself, and the rest go on in a fresh process.

#include <functional>
#include <string>
#include <vector>

namespace rehearse::kernels {

// What a job has to say, a line each for people and for programs.
struct Result {
  bool passed = true;
  std::string text;
  std::string json;
};
using Emit = std::function<void(const Result&)>;

struct Job {
  std::string name;
  std::function<void(const Emit&)> run;
};

struct Supervision {
  // In each new process, before its first job; what it throws ends everything.
  std::function<void()> prepare;
  // After each job: whether the process is of no more use.
  std::function<bool()> broken;
  double limit_s = 60;  // of one job
};

// Results in order, those of jobs that did not end included. Returns the host's CPU seconds. Throws
// std::runtime_error with the reason where `prepare` failed, or where three processes in a row
// ended without a job done.
double supervise(const std::vector<Job>& jobs, const Supervision& supervision, const Emit& emit);

}  // namespace rehearse::kernels
