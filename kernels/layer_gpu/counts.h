#pragma once
// What a step counts on a GPU, so that the host need not be asked within it: experts' loads and
// biases, values that are not finite, sums of losses, the step's status.

#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// load[e] += how many of the choices are e.
struct GpuCount {
  const int32_t* chosen = nullptr;
  int64_t* load = nullptr;  // [experts]
  int64_t count = 0, experts = 0;
};
// b += speed sign(mean load - load) (DeepSeek-V3 report, section 2.1.2).
struct GpuUpdateBias {
  const int64_t* load = nullptr;
  float* bias = nullptr;
  int64_t experts = 0;
  double speed = 0;
};
// The gate's weights of choices that are given: factor score (/ their sum).
struct GpuWeightsOfChosen {
  const float* scores = nullptr;    // [tokens, experts]
  const int32_t* chosen = nullptr;  // [tokens, active]
  float* weights = nullptr;         // [tokens, active]
  int64_t tokens = 0, experts = 0, active = 0;
  float scaling = 1;
  bool normalize = true;
};
// count += 1 where not all of x is finite.
struct GpuCountBad {
  ConstValues x;
  int64_t elements = 0;
  int64_t* count = nullptr;  // [1]
  float* partial = nullptr;  // [kBadBlocks], scratch
};
inline constexpr int kBadBlocks = 64;
// sum[0] = (or +=) the sum of values, or of their squares, or how many are not finite, in FP64 and
// a fixed order.
struct GpuTotal {
  enum class Of { kValues, kSquares, kNotFinite };
  Of of = Of::kValues;
  const float* fp32 = nullptr;  // one of the three
  const double* fp64 = nullptr;
  const int64_t* int64 = nullptr;
  int64_t elements = 0;
  double* sum = nullptr;
  bool add = false;
};

// Throw std::invalid_argument, naming what is wrong, before anything is started.
namespace gpu {
void count(const GpuCount& c, Stream stream);
void update_bias(const GpuUpdateBias& u, Stream stream);
void weights_of_chosen(const GpuWeightsOfChosen& w, Stream stream);
void count_bad(const GpuCountBad& c, Stream stream);
void total(const GpuTotal& t, Stream stream);
}  // namespace gpu
namespace imitated {
void count(const GpuCount& c, Stream stream);
void update_bias(const GpuUpdateBias& u, Stream stream);
void weights_of_chosen(const GpuWeightsOfChosen& w, Stream stream);
void count_bad(const GpuCountBad& c, Stream stream);
void total(const GpuTotal& t, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
