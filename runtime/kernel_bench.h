#pragma once
// Timing single kernels on this machine: alone, and while every other core runs the same.
//
// A kernel meets in a training step some inputs that the kernel before it has just written, and
// others (weights, saved activations, gradients) that were last touched many ops ago. The bench
// keeps that apart: fresh operands are touched just before each call, stored ones take turns
// through a working set that no cache holds.

#include <functional>
#include <memory>
#include <vector>

#include "cost/kernel_call.h"

namespace rehearse {

// Times of single calls of one kernel in one round.
struct KernelRound {
  std::vector<Duration> alone;
  std::vector<Duration> busy;  // while every other core runs the same; empty for one core
};

class KernelBench {
 public:
  // cores: how many run at once for KernelRound::busy. Takes half a gigabyte of memory.
  explicit KernelBench(int64_t cores);
  ~KernelBench();
  KernelBench(const KernelBench&) = delete;
  KernelBench& operator=(const KernelBench&) = delete;

  struct Options {
    Duration budget;  // per kernel, condition and round; at least one call is made
    int64_t rounds = 1;
    int64_t first_round = 0;  // each round is on another core than the one before
    std::function<void(int64_t done, const KernelCall& call)> progress;  // done of calls x rounds
  };
  // Goes through all calls once per round, so that a machine whose speed drifts shows that in every
  // kernel's times alike. Returns [call][round].
  std::vector<std::vector<KernelRound>> time(const std::vector<KernelCall>& calls,
                                             const Options& options);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rehearse
