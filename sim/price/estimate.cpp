#include "sim/price/estimate.h"

#include <algorithm>

namespace rehearse {
namespace {

// Applies `f` to the corresponding times of several KernelTimes.
template <typename F, typename... Times>
KernelTime each_time(F f, const Times&... t) {
  const auto d = [&](auto member) { return Duration::seconds(f((t.*member).seconds()...)); };
  return {.alone = d(&KernelTime::alone),
          .mean = d(&KernelTime::mean),
          .low = d(&KernelTime::low),
          .high = d(&KernelTime::high),
          .busy = d(&KernelTime::busy)};
}

KernelTime scaled(const KernelTime& t, double factor) {
  return each_time([&](double x) { return x * factor; }, t);
}

// a (1 - share) + b share
KernelTime mixed(const KernelTime& a, const KernelTime& b, double share) {
  return each_time([&](double x, double y) { return x * (1 - share) + y * share; }, a, b);
}

using Axis = std::vector<int64_t>;

// Values of each entry of a kernel's shape in the grid, ascending.
const std::vector<Axis>& grid_axes(Kernel kernel) {
  static const Axis rows = {16, 64, 128, 256, 512, 1024, 4096};
  static const Axis widths = {16, 64, 128, 256, 512, 1024};
  static const Axis few = {1, 2, 4, 8};
  static const Axis elements = {1 << 10, 1 << 14, 1 << 17, 1 << 19, 1 << 21, 1 << 23};
  static const std::vector<Axis> product = {{1, 8, 32, 64, 128, 256, 512, 1024, 2048},
                                            {16, 32, 64, 128, 256, 512, 1024},
                                            {16, 32, 64, 128, 256, 512, 1024}};
  static const std::vector<Axis> by_rows = {rows, widths};
  static const std::vector<Axis> rope = {{64, 512, 4096}, {1, 2, 8, 32}, {8, 16, 32, 64}};
  static const std::vector<Axis> attention = {
      {1}, {16, 64, 128, 256, 512, 1024}, {1, 4}, {16, 32, 64, 128, 256}, {16, 32, 64, 128}};
  static const std::vector<Axis> gate = {{64, 512, 4096}, {4, 8, 16, 32, 64, 128, 256}, few};
  static const std::vector<Axis> unpermute = {
      {64, 128, 256, 512, 1024, 4096}, few, {64, 128, 256, 512, 1024}};
  static const std::vector<Axis> vocabulary = {{64, 512, 4096}, {64, 256, 1024, 8192}};
  static const std::vector<Axis> by_elements = {elements};
  static const std::vector<Axis> reduce = {elements, {2, 4, 8}};
  switch (kernel) {
    case Kernel::kMatmul:
    case Kernel::kMatmulGradInput:
    case Kernel::kMatmulGradWeight:
      return product;
    case Kernel::kRope:
      return rope;
    case Kernel::kAttention:
    case Kernel::kAttentionBackward:
      return attention;
    case Kernel::kGate:
    case Kernel::kGateBackward:
      return gate;
    case Kernel::kUnpermute:
      return unpermute;
    case Kernel::kCrossEntropy:
    case Kernel::kCrossEntropyBackward:
      return vocabulary;
    case Kernel::kReduce:
      return reduce;
    case Kernel::kAdamW:
    case Kernel::kSquareSum:
    case Kernel::kCopy:
    case Kernel::kFill:
    case Kernel::kConvert:
    case Kernel::kQuantize:
    case Kernel::kDequantize:
    case Kernel::kPackE5m6:
    case Kernel::kUnpackE5m6:
      return by_elements;
    case Kernel::kRmsNorm:
    case Kernel::kRmsNormBackward:
    case Kernel::kSwiglu:
    case Kernel::kSwigluBackward:
    case Kernel::kPermute:
    case Kernel::kAdd:
    case Kernel::kEmbedding:
    case Kernel::kEmbeddingBackward:
    case Kernel::kRoundColumns:
      return by_rows;
  }
  CHECK(false) << "kernel " << static_cast<int>(kernel);
}

// Shapes that no call can have: more active experts than there are.
bool possible(const KernelCall& c) {
  const bool gate = c.kernel == Kernel::kGate || c.kernel == Kernel::kGateBackward;
  return !gate || c.shape[2] <= c.shape[1];
}

// What a time is divided by to be linear in every entry of the shape.
double curvature(const KernelCall& c) {
  return is_attention(c.kernel) ? static_cast<double>(c.shape[1]) : 1;
}

// Where a value lies on an axis: between two neighbours, or beyond the last by a factor.
struct AxisPlace {
  int64_t below = 0, above = 0;
  double share = 0;   // of `above`
  double factor = 1;  // beyond the axis' end
};

AxisPlace place_on(const Axis& axis, int64_t value) {
  const auto above = std::lower_bound(axis.begin(), axis.end(), value);
  if (above == axis.end()) {
    const int64_t last = axis.back();
    return {last, last, 0, static_cast<double>(value) / static_cast<double>(last)};
  }
  if (above == axis.begin()) return {*above, *above, 0, 1};
  const int64_t below = *(above - 1);
  return {
      below, *above, static_cast<double>(value - below) / static_cast<double>(*above - below), 1};
}

std::optional<KernelTime> within_grid(const Calibration& calibration, const KernelCall& call) {
  const std::vector<Axis>& axes = grid_axes(call.kernel);
  std::vector<AxisPlace> places;
  for (size_t i = 0; i < axes.size(); ++i) places.push_back(place_on(axes[i], call.shape[i]));
  // Mixes along entry i of the corners whose entries below i are chosen.
  const auto mix = [&](const auto& self, KernelCall corner, size_t i) -> std::optional<KernelTime> {
    if (i == axes.size()) {
      const auto found = calibration.kernels.find(corner);
      if (found == calibration.kernels.end()) return std::nullopt;
      return scaled(found->second, 1 / curvature(corner));
    }
    corner.shape[i] = places[i].below;
    const auto below = self(self, corner, i + 1);
    if (places[i].share == 0) return below;
    corner.shape[i] = places[i].above;
    const auto above = self(self, corner, i + 1);
    if (!below || !above) return std::nullopt;
    return mixed(*below, *above, places[i].share);
  };
  const auto time = mix(mix, {.kernel = call.kernel}, 0);
  if (!time) return std::nullopt;
  double factor = curvature(call);
  for (const AxisPlace& p : places) factor *= p.factor;
  return scaled(*time, factor);
}

// The measured calls of the same kernel that differ in rows alone: the nearest on either side.
struct RowNeighbours {
  using Entry = std::map<KernelCall, KernelTime>::const_iterator;
  std::optional<Entry> below, above;
};

RowNeighbours row_neighbours(const Calibration& calibration, const KernelCall& call) {
  RowNeighbours n;
  // Calls are ordered by kernel, then rows.
  for (auto e = calibration.kernels.lower_bound({.kernel = call.kernel});
       e != calibration.kernels.end() && e->first.kernel == call.kernel;
       ++e) {
    KernelCall same_rows = e->first;
    same_rows.shape[kRowsEntry] = call.shape[kRowsEntry];
    if (same_rows != call) continue;
    if (e->first.shape[kRowsEntry] < call.shape[kRowsEntry]) {
      n.below = e;
    } else {
      n.above = e;
      break;
    }
  }
  return n;
}

}  // namespace

std::vector<KernelCall> grid_calls() {
  std::vector<KernelCall> calls;
  for (const Kernel kernel : all_kernels()) {
    const std::vector<Axis>& axes = grid_axes(kernel);
    // All combinations of the entries so far, one more with each axis.
    std::vector<KernelCall> combinations = {{.kernel = kernel}};
    for (size_t i = 0; i < axes.size(); ++i) {
      std::vector<KernelCall> longer;
      for (KernelCall call : combinations) {
        for (const int64_t value : axes[i]) {
          call.shape.at(i) = value;
          longer.push_back(call);
        }
      }
      combinations = std::move(longer);
    }
    std::erase_if(combinations, [](const KernelCall& c) { return !possible(c); });
    calls.insert(calls.end(), combinations.begin(), combinations.end());
  }
  return calls;
}

std::optional<KernelEstimate> estimate(const Calibration& calibration, const KernelCall& call) {
  const auto exact = calibration.kernels.find(call);
  if (exact != calibration.kernels.end()) return KernelEstimate{exact->second, true};
  const auto rows_of = [](RowNeighbours::Entry e) {
    return static_cast<double>(e->first.shape[kRowsEntry]);
  };
  const auto rows = static_cast<double>(call.shape[kRowsEntry]);
  const RowNeighbours n = row_neighbours(calibration, call);
  constexpr double kNear = 4;  // neighbours further apart say less than the grid does
  const auto between = [&]() -> KernelTime {
    const double share = (rows - rows_of(*n.below)) / (rows_of(*n.above) - rows_of(*n.below));
    return mixed((*n.below)->second, (*n.above)->second, share);
  };
  if (n.below && n.above && rows_of(*n.above) <= kNear * rows_of(*n.below)) {
    return KernelEstimate{between()};
  }
  if (const auto time = within_grid(calibration, call)) return KernelEstimate{*time};
  if (n.below && n.above) return KernelEstimate{between()};
  if (!n.below && !n.above) return std::nullopt;
  const RowNeighbours::Entry nearest = n.below ? *n.below : *n.above;
  return KernelEstimate{scaled(nearest->second, rows / rows_of(nearest))};
}

}  // namespace rehearse
