#include "cost/gpu_work.h"

#include <algorithm>

#include "base/names.h"

namespace rehearse {
namespace {

constexpr NameTable kWorkKindNames{std::to_array<Named<WorkKind>>({
    {WorkKind::kProduct, "product"},
    {WorkKind::kAttention, "attention"},
    {WorkKind::kCast, "cast"},
    {WorkKind::kNorm, "norm"},
    {WorkKind::kRope, "rope"},
    {WorkKind::kActivation, "activation"},
    {WorkKind::kPermute, "permute"},
    {WorkKind::kGate, "gate"},
    {WorkKind::kElementwise, "elementwise"},
    {WorkKind::kStream, "stream"},
    {WorkKind::kData, "data"},
    {WorkKind::kWaiting, "waiting"},
    {WorkKind::kGap, "gap"},
})};
static_assert(kWorkKindNames.complete());
constexpr NameTable kFamilies{std::to_array<Named<Family>>({
    {Family::kDense, "dense"},
    {Family::kGrouped, "grouped"},
    {Family::kWeight, "weight"},
    {Family::kGroupedWeight, "grouped_weight"},
})};
static_assert(kFamilies.complete());
constexpr NameTable kFormats{
    std::to_array<Named<Format>>({{Format::kBf16, "bf16"}, {Format::kFp8, "fp8"}})};
static_assert(kFormats.complete());

}  // namespace

GpuTask product_task(
    Family family, Format format, int64_t groups, int64_t m, int64_t n, int64_t k) {
  const int64_t element = format == Format::kFp8 ? 1 : 2;
  const bool weights = family == Family::kWeight || family == Family::kGroupedWeight;
  const int64_t moved = weights ? (m * n + m * k) * element + groups * n * k * (4 + 4)
                                : (m * k + groups * n * k) * element + m * n * 2;
  return {
      .kind = WorkKind::kProduct,
      .flops = Flops(2 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k)),
      .bytes = Bytes(moved),
      .family = family,
      .format = format,
      .groups = groups,
      .m = m,
      .n = n,
      .k = k};
}

GpuTask cast_task(int64_t values, int64_t element) {
  return {.kind = WorkKind::kCast, .bytes = Bytes(values * (element + 1))};
}

Duration ideal_time(const GpuTask& task, const GpuPeaks& peaks) {
  const bool fp8 = task.kind == WorkKind::kProduct && task.format == Format::kFp8;
  const double rate = (fp8 ? peaks.fp8 : peaks.bf16).value();
  const double seconds =
      task.flops.count() / rate + static_cast<double>(task.bytes.count()) / peaks.memory.value();
  // Some work takes some time, so that ratios to it are finite.
  return seconds > 0 ? std::max(Duration::picoseconds(1), Duration::seconds(seconds)) : Duration();
}

const size_t kWorkKinds = kWorkKindNames.size();

std::vector<WorkKind> work_kinds() {
  std::vector<WorkKind> kinds;
  for (const auto& n : kWorkKindNames.entries()) kinds.push_back(n.value);
  return kinds;
}

bool is_task(WorkKind kind) {
  return kind != WorkKind::kData && kind != WorkKind::kWaiting && kind != WorkKind::kGap;
}
bool is_memory_bound(WorkKind kind) {
  return is_task(kind) && kind != WorkKind::kProduct && kind != WorkKind::kAttention;
}

std::string_view name_of(WorkKind kind) {
  return kWorkKindNames[kind];
}
std::string_view name_of(Family family) {
  return kFamilies[family];
}
std::string_view name_of(Format format) {
  return kFormats[format];
}
std::optional<WorkKind> work_kind_named(std::string_view name) {
  return kWorkKindNames.find(name);
}
std::optional<Family> family_named(std::string_view name) {
  return kFamilies.find(name);
}
std::optional<Format> format_named(std::string_view name) {
  return kFormats.find(name);
}

}  // namespace rehearse
