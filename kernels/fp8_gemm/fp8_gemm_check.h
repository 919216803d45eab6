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
  // What others published, 0 where nothing: TFLOP/s on an H800 with 132 SMs (DeepGEMM's README),
  // microseconds in DeepSeek's DualPipe profile of an H800 with 112.
  double published_tflops = 0;
  double profile_us = 0;

  int groups() const { return rows.empty() ? 1 : static_cast<int>(rows.size()); }
  // Rows (tokens) that hold values; what is computed for padding is not counted as work.
  int64_t used() const;
  // Flops and bytes, as the simulator counts them.
  GpuTask task() const;
  ProductSize size() const { return {m, n, k, groups(), sms, weight_gradient}; }
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
// DeepSeek-V3's, dense and grouped.
std::vector<GemmCase> v3_gemm_cases();

// kExact: small integers, on which 14 bits are enough, so that results must be equal to the bit.
// kRandom: codes as casts make them; within the bounds of fp8_gemm_error.
enum class GemmInputs { kExact, kRandom };

// Runs the case with this tile shape twice: the second result must be the same bits. Large ones are
// compared in randomly chosen elements. Where `modelled`, results must also be those of the model
// of tensor cores, as the imitation's are; else how many are is part of what was found.
Outcome check_gemm(
    const GemmCase& c, const TileShape& shape, GemmInputs inputs, Target& target, bool modelled);

// A case's operands on the target, for benchmarks: random codes, scales about 1.
class GemmOperands {
 public:
  GemmOperands(const GemmCase& c, GemmInputs inputs, Target& target);
  const Fp8Product& product() const { return product_; }
  const Fp8WeightGradient& gradient() const { return gradient_; }
  // The same on the host.
  Fp8Product host_product() const;
  Fp8WeightGradient host_gradient() const;
  // What the output holds before the kernel, and after it; checks guards.
  const std::vector<Bf16>& y_before() const { return y_; }
  const std::vector<float>& dw_before() const { return dw_; }
  std::vector<Bf16> y() const { return y_device_.values(); }
  std::vector<float> dw() const { return dw_device_.values(); }
  void reset();
  void release();

 private:
  GemmCase case_;
  Target& target_;
  std::vector<uint8_t> a_, b_;
  std::vector<float> a_scales_, b_scales_, dw_;
  std::vector<Bf16> y_;
  DeviceArray<uint8_t> a_device_, b_device_;
  DeviceArray<float> a_scales_device_, b_scales_device_;
  DeviceArray<int32_t> rows_device_;
  DeviceArray<Bf16> y_device_;
  DeviceArray<float> dw_device_;
  Fp8Product product_;
  Fp8WeightGradient gradient_;
};

}  // namespace rehearse::kernels
