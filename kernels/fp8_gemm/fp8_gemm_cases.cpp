#include <algorithm>
#include <numeric>

#include "base/integers.h"
#include "kernels/fp8_gemm/fp8_gemm_check.h"
#include "kernels/ptx/arguments.h"

namespace rehearse::kernels {
namespace {

int64_t padded(const std::vector<int32_t>& rows) {
  int64_t sum = 0;
  for (const int32_t r : rows) sum += round_up(r, kScaleBlock);
  return sum;
}

GemmCase dense(int64_t m, int64_t n, int64_t k) {
  GemmCase c;
  c.name = "dense m" + std::to_string(m) + " n" + std::to_string(n) + " k" + std::to_string(k);
  c.m = m, c.n = n, c.k = k;
  return c;
}

// `spare` rows behind the last group: dropless routing fills a buffer as far as it comes.
GemmCase grouped(const char* what, std::vector<int32_t> rows, int64_t n, int64_t k, int64_t spare) {
  GemmCase c;
  c.name = std::string("grouped ") + what + " n" + std::to_string(n) + " k" + std::to_string(k);
  c.m = padded(rows) + spare, c.n = n, c.k = k;
  c.rows = std::move(rows);
  return c;
}

GemmCase gradient(int64_t m, int64_t n, int64_t tokens) {
  GemmCase c;
  c.name = "gradient m" + std::to_string(m) + " n" + std::to_string(n) + " tokens" +
           std::to_string(tokens);
  c.weight_gradient = true;
  c.m = m, c.n = n, c.k = tokens;
  return c;
}

GemmCase grouped_gradient(
    const char* what, int64_t m, int64_t n, std::vector<int32_t> rows, int64_t spare) {
  GemmCase c = gradient(m, n, padded(rows) + spare);
  c.name =
      std::string("grouped gradient ") + what + " m" + std::to_string(m) + " n" + std::to_string(n);
  c.rows = std::move(rows);
  return c;
}

GemmCase published(GemmCase c, double tflops) {
  c.published_tflops = tflops;
  return c;
}

// As the profile ran it, on 112 SMs.
GemmCase profiled(GemmCase c, double us) {
  c.name += " on 112 SMs";
  c.sms = 112;
  c.shares_device = true;
  c.profile_us = us;
  return c;
}

}  // namespace

int64_t GemmCase::used() const {
  if (rows.empty()) return weight_gradient ? k : m;
  return std::accumulate(rows.begin(), rows.end(), int64_t{0});
}

GpuTask GemmCase::task() const {
  if (weight_gradient) {
    return product_task(rows.empty() ? Family::kWeight : Family::kGroupedWeight,
                        Format::kFp8,
                        groups(),
                        used(),
                        m,
                        n);
  }
  return product_task(
      rows.empty() ? Family::kDense : Family::kGrouped, Format::kFp8, groups(), used(), n, k);
}

std::vector<TileShape> GemmCase::shapes() const {
  std::vector<TileShape> list = {choose_shape(size())};
  for (const TileShape& s : compiled_shapes(weight_gradient)) {
    if (!(s == list.front()) && s.cluster <= sms) list.push_back(s);
  }
  return list;
}

std::vector<GemmCase> small_gemm_cases() {
  std::vector<GemmCase> list = {
      dense(1, 8, 16),  // one token, the smallest of all
      dense(1, 264, 128),
      dense(127, 136, 144),  // one below the edge
      dense(128, 128, 128),
      dense(129, 120, 272),  // one above; a pair with one tile
      dense(300, 392, 640),  // more stages than the ring has, all edges cut
      dense(257, 576, 448),  // DeepSeek-V3's kv_a is 576 wide: 4.5 blocks
      grouped("empty first, one token, full", {0, 1, 128}, 200, 256, 0),
      grouped("odd", {130, 0, 255, 3}, 264, 384, 128),
      grouped("whole blocks before others", {128, 5, 384, 1}, 136, 128, 0),
      grouped("nothing", {0, 0}, 128, 128, 128),
      grouped("last empty", {384, 0}, 112, 144, 0),
      dense(2177, 136, 16),  // more than one band of tiles
      gradient(2177, 132, 16),
      gradient(128, 128, 128),
      gradient(200, 264, 400),
      gradient(1, 4, 16),
      grouped_gradient("odd", 136, 140, {1, 0, 257, 128}, 0),
      grouped_gradient("nothing", 128, 128, {0, 0}, 128),
      grouped_gradient("with room", 64, 300, {640, 100}, 256),
  };
  for (GemmCase& c : list) c.sms = 4;  // few, so that blocks take several tiles
  return list;
}

std::vector<GemmCase> large_gemm_cases() {
  return {dense(4000, 2120, 3600),
          grouped("unequal", {1311, 0, 905, 1532}, 2120, 1552, 256),
          gradient(4000, 1540, 3600),
          grouped_gradient("unequal", 1100, 1540, {1311, 0, 905, 1532}, 256)};
}

GemmCase gemm_case(
    bool weight_gradient, int64_t m, int64_t n, int64_t k, std::vector<int32_t> rows) {
  const Arguments arguments("this case");
  for (const int32_t r : rows) {
    arguments.require(r >= 0, "a group of " + std::to_string(r) + " rows");
  }
  // With groups their rows say how many there are in all; an empty buffer has one block.
  const int64_t sum = std::max<int64_t>(padded(rows), kScaleBlock);
  if (!rows.empty()) (weight_gradient ? k : m) = sum;
  arguments.require_multiple(m, 1, "m");
  arguments.require_multiple(n, weight_gradient ? 4 : 8, "n");
  arguments.require_multiple(k, 16, weight_gradient ? "k, the tokens," : "k");
  GemmCase c = weight_gradient ? gradient(m, n, k) : dense(m, n, k);
  if (!rows.empty()) {
    c.name += " groups";
    for (const int32_t r : rows) c.name += " " + std::to_string(r);
  }
  c.rows = std::move(rows);
  c.sms = 4;
  return c;
}

GemmCase random_gemm_case(uint64_t number) {
  std::mt19937_64 random = random_of("random gemm case " + std::to_string(number));
  const auto up_to = [&](uint64_t n) { return static_cast<int64_t>(random() % n) + 1; };
  const bool weight_gradient = random() % 3 == 0;
  // Half of the sizes at or next to an edge.
  const auto size = [&](uint64_t most, int64_t of) {
    int64_t n = up_to(most);
    if (random() % 2) n = std::max<int64_t>(1, n / kScaleBlock * kScaleBlock + up_to(3) - 2);
    return round_up(n, of);
  };
  std::vector<int32_t> rows;
  if (random() % 2) {
    for (int64_t g = up_to(5); g > 0; --g) {
      rows.push_back(random() % 4 == 0 ? 0 : static_cast<int32_t>(size(300, 1)));
    }
  }
  GemmCase c = gemm_case(weight_gradient,
                         size(400, 1),
                         size(600, weight_gradient ? 4 : 8),
                         size(700, 16),
                         std::move(rows));
  c.sms = static_cast<int>(up_to(5));
  c.name =
      "random " + std::to_string(number) + ": " + c.name + " on " + std::to_string(c.sms) + " SMs";
  return c;
}

std::vector<GemmCase> v3_gemm_cases() {
  std::vector<GemmCase> list;
  // Every Linear of a layer: kv_a and q_a together, q_b, kv_b, o_proj, the shared expert. The
  // figures: DeepGEMM's README, H800.
  const struct {
    int64_t n, k;
    double tflops;
  } kDense[] = {{2112, 7168, 1058},
                {24576, 1536, 1125},
                {32768, 512, 751},
                {7168, 16384, 1426},
                {4096, 7168, 1304},
                {7168, 2048, 1168}};
  for (const int64_t m : {4096, 8192, 32768}) {
    for (const auto& s : kDense) {
      list.push_back(published(dense(m, s.n, s.k), m == 4096 ? s.tflops : 0));
    }
  }
  const std::vector<int32_t> four(4, 8192);
  list.push_back(published(grouped("4 x 8192", four, 4096, 7168, 0), 1346));
  list.push_back(published(grouped("4 x 8192", four, 7168, 2048, 0), 1214));
  list.push_back(grouped("4 x 8192", four, 2048, 7168, 0));  // input gradients
  list.push_back(grouped("4 x 8192", four, 7168, 4096, 0));
  // As routing deals them out: unequal, not multiples of 128.
  const std::vector<int32_t> unequal = {9311, 6920, 8005, 8532};
  list.push_back(grouped("unequal", unequal, 4096, 7168, 2048));
  list.push_back(grouped("unequal", unequal, 7168, 2048, 2048));
  list.push_back(gradient(16384, 7168, 4096));  // o_proj
  list.push_back(gradient(24576, 1536, 4096));  // q_b
  list.push_back(gradient(32768, 512, 4096));   // kv_b
  list.push_back(grouped_gradient("4 x 8192", 4096, 7168, four, 0));
  list.push_back(grouped_gradient("4 x 8192", 7168, 2048, four, 0));
  list.push_back(grouped_gradient("unequal", 4096, 7168, unequal, 2048));
  // The profile's kernels, medians over its four layers.
  list.push_back(profiled(dense(4096, 1536, 7168), 104.0));
  list.push_back(profiled(dense(4096, 24576, 1536), 372.0));
  list.push_back(profiled(dense(4096, 32768, 512), 243.5));
  list.push_back(profiled(dense(4096, 7168, 16384), 894.0));
  list.push_back(profiled(dense(4096, 4096, 7168), 257.5));
  list.push_back(profiled(dense(4096, 7168, 2048), 139.0));
  // 31,104 rows, the median of its ranks, in four equal groups.
  const std::vector<int32_t> routed(4, 7776);
  list.push_back(profiled(grouped("4 x 7776", routed, 4096, 7168, 0), 1792.5));
  list.push_back(profiled(grouped("4 x 7776", routed, 7168, 2048, 0), 1004.5));
  list.push_back(profiled(gradient(16384, 7168, 4096), 1506.5));
  list.push_back(profiled(gradient(24576, 1536, 4096), 459.0));
  return list;
}

}  // namespace rehearse::kernels
