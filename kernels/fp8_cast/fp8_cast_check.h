#pragma once
// The cases of the casts to FP8, listed once for checks and benchmarks, and their check.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cost/gpu_work.h"
#include "kernels/checking/outcome.h"
#include "kernels/checking/target.h"

namespace rehearse::kernels {

enum class CastKind { kRows, kColumns, kColumnsOfCodes, kBlocks };

struct CastCase {
  std::string name;
  CastKind kind = CastKind::kRows;
  int64_t m = 0, k = 0;  // rows (tokens) and columns; of blocks: every matrix
  int64_t matrices = 1;
  std::vector<int32_t> rows;  // of groups, or empty
  bool power_of_two = false;
  bool every_value = false;  // every BF16 value up to 448, in groups of scale 1

  // Bytes, as the simulator counts them.
  GpuTask task() const;
};

std::vector<CastCase> small_cast_cases();
std::vector<CastCase> v3_cast_cases();

// A case with its operands on a target.
class CastCheck {
 public:
  CastCheck(const CastCase& c, Target& target);
  ~CastCheck();
  // Starts the kernel.
  void start(Stream stream);
  // Runs it twice: codes and scales must be those of the reference to the bit, and what is not to
  // be written as it was, guards of arrays included.
  Outcome check();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The check by itself.
Outcome check_cast(const CastCase& c, Target& target);

}  // namespace rehearse::kernels
