#pragma once
// The cases of the FP8 products, listed once for checks and benchmarks, and their check.

#include <cstdint>
#include <string>
#include <vector>

#include "cost/gpu_work.h"
#include "kernels/checking/outcome.h"
#include "kernels/checking/target.h"

namespace rehearse::kernels {

struct GemmCase {
  std::string name;
  bool weight_gradient = false;
  int64_t m = 0, n = 0, k = 0;  // y[m, n] over k; weight gradients: dw[m, n] over k tokens
  std::vector<int32_t> rows;    // of each group, padded to fill m (or k) together; empty: dense
  int sms = 132;
  bool shares_device = false;  // the other SMs are other kernels'
  // What others published, 0 where nothing: TFLOP/s on an H800 with 132 SMs (DeepGEMM's README),
  // microseconds in DeepSeek's DualPipe profile of an H800 with 112.
  double published_tflops = 0;
  double profile_us = 0;

  int groups() const { return rows.empty() ? 1 : static_cast<int>(rows.size()); }
  // Rows (tokens) that hold values; what is computed for padding is not counted as work.
  int64_t used() const;
  // Flops and bytes, as the simulator counts them.
  GpuTask task() const;
  ProductSize size() const { return {m, n, k, groups(), sms, weight_gradient, shares_device}; }
  // Tile shapes the kernels are compiled for that make sense here; the first is the chosen one.
  std::vector<TileShape> shapes() const;
};

// Small ones with odd sizes, empty groups, single tokens and edges at 128, for the imitation too.
std::vector<GemmCase> small_gemm_cases();
// One of any small sizes, chosen by the number.
GemmCase random_gemm_case(uint64_t number);
// One of these sizes: m and k are without padding where there are groups. Throws
// std::invalid_argument where the kernels would refuse it.
GemmCase gemm_case(
    bool weight_gradient, int64_t m, int64_t n, int64_t k, std::vector<int32_t> rows);
// One of each kind that fills all stages, SMs and bands of tiles, with every edge cut.
std::vector<GemmCase> large_gemm_cases();
// DeepSeek-V3's, dense and grouped.
std::vector<GemmCase> v3_gemm_cases();

// kExact: small integers, on which 14 bits are enough, so that results must be equal to the bit.
// kRandom: codes as casts make them; within the bounds of fp8_gemm_error.
enum class GemmInputs { kExact, kRandom };

// An element of the result and what is right there.
struct ExpectedElement {
  int group;
  int64_t row, column;  // of y, or of dw[group]
  float sum;            // added up exactly
  float model;          // as the model of tensor cores has it; of random inputs
  ElementError error;   // of random inputs
};

// A case's operands on the host, and the results to compare: of large cases, randomly chosen
// elements. Drawn from a table, so that gigabytes take no longer than to write them.
class GemmData {
 public:
  GemmData(const GemmCase& c, GemmInputs inputs);
  const GemmCase& of() const { return case_; }
  GemmInputs inputs() const { return inputs_; }
  Fp8Product product() const;                                  // without y
  Fp8WeightGradient gradient() const;                          // without dw
  const std::vector<float>& dw_before() const { return dw_; }  // what the gradient is added to
  // Worked out when first asked for.
  const std::vector<ExpectedElement>& expected() const;

 private:
  friend class GemmOperands;
  GemmCase case_;
  GemmInputs inputs_;
  std::vector<uint8_t> a_, b_;
  std::vector<float> a_scales_, b_scales_, dw_;
  mutable std::vector<ExpectedElement> expected_;
};

// The operands on a target, with room for two results.
class GemmOperands {
 public:
  GemmOperands(const GemmData& data, Target& target);
  const Fp8Product& product() const { return product_; }
  const Fp8WeightGradient& gradient() const { return gradient_; }
  // Starts the kernel of the case's kind, into the first result, of which nothing is reset.
  void start(const KernelSet& kernels, const TileShape& shape, Stream stream);
  // Makes a result what it is before the kernel, other bits where nothing may be written for the
  // first and the second, and starts the kernel into it.
  void run(const KernelSet& kernels, const TileShape& shape, int result);
  const DeviceArray<Bf16>& y() const { return y_[0]; }
  const DeviceArray<float>& dw() const { return dw_[0]; }
  // Whether the two results are the same bits wherever something is to be written.
  bool same_results() const;
  // Throws std::runtime_error where a kernel wrote outside of the operands.
  void check_guards() const;

 private:
  const GemmData& data_;
  Target& target_;
  DeviceArray<uint8_t> a_, b_;
  DeviceArray<float> a_scales_, b_scales_;
  DeviceArray<int32_t> rows_;
  DeviceArray<Bf16> y_[2];
  DeviceArray<float> dw_before_, dw_[2];
  Fp8Product product_;
  Fp8WeightGradient gradient_;
};

// Runs the case with this tile shape twice: the second result must be the same bits. Where
// `modelled`, results must also be those of the model of tensor cores, as the imitation's are; else
// how many are is part of what was found.
Outcome check_gemm(const GemmData& data,
                   GemmOperands& operands,
                   const TileShape& shape,
                   Target& target,
                   const KernelSet& kernels,
                   bool modelled);
// The same with operands of its own.
Outcome check_gemm(
    const GemmCase& c, const TileShape& shape, GemmInputs inputs, Target& target, bool modelled);

}  // namespace rehearse::kernels
