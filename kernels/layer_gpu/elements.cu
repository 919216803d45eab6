#include <cmath>

#include "kernels/layer_gpu/elements.cuh"
#include "kernels/layer_gpu/launch.h"

namespace rehearse::kernels::REHEARSE_TARGET {

void sum(const GpuSum& s, Stream stream) {
  const Arguments arguments("sum");
  if (s.elements == 0) return;
  ptx::launch<sum_kernel<GpuSum>>(
      grid_of(arguments, ceil_div(s.elements, kRowThreads), kRowThreads), stream, s);
}

void embedding(const GpuEmbedding& e, Stream stream) {
  const Arguments arguments("embedding");
  arguments.require(e.width > 0, "no columns");
  if (e.count == 0) return;
  ptx::launch<embedding_kernel<GpuEmbedding>>(grid_of(arguments, e.count, kRowThreads), stream, e);
}

void embedding_backward(const GpuEmbeddingBackward& e, Stream stream) {
  const Arguments arguments("embedding_backward");
  arguments.require(e.width > 0, "no columns");
  if (e.count == 0) return;
  ptx::launch<embedding_table_kernel<GpuEmbeddingBackward>>(
      grid_of(arguments, e.count, kRowThreads, kRowShared), stream, e);
}

namespace {

struct AdamWArguments {
  GpuAdamW call;
  AdamWFactors factors;
};

}  // namespace

void adamw(const GpuAdamW& a, Stream stream) {
  const Arguments arguments("adamw");
  arguments.require(a.status != nullptr && a.status_size >= 1, "no status");
  arguments.require(a.segments != nullptr || a.segment_count == 0, "segments are null");
  if (a.segment_count == 0) return;
  const AdamWSettings& s = a.settings;
  const double correct1 = 1 - std::pow(s.beta1, static_cast<double>(s.step));
  const double correct2 = 1 - std::pow(s.beta2, static_cast<double>(s.step));
  const AdamWFactors factors{.beta1 = static_cast<float>(s.beta1),
                             .beta2 = static_cast<float>(s.beta2),
                             .rate = static_cast<float>(s.learning_rate / correct1),
                             .root = static_cast<float>(1 / std::sqrt(correct2)),
                             .eps = static_cast<float>(s.eps)};
  ptx::launch<adamw_kernel<AdamWArguments>>(
      grid_of(arguments, ceil_div(a.elements, kRowThreads), kRowThreads),
      stream,
      AdamWArguments{a, factors});
}

}  // namespace rehearse::kernels::REHEARSE_TARGET
