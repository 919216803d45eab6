#include <algorithm>
#include <cmath>
#include <vector>

#include "base/integers.h"
#include "kernels/fp8_cast/fp8_cast.h"

namespace rehearse::kernels {
namespace {

// Which rows hold values: [begin, end) of every group's padded range [begin, limit).
struct Rows {
  int64_t begin, end, limit;
};

std::vector<Rows> groups_of(int groups, const int32_t* rows, int64_t all) {
  if (!rows) return {{0, all, all}};
  std::vector<Rows> list;
  int64_t begin = 0;
  for (int g = 0; g < groups; ++g) {
    const int64_t limit = begin + ceil_div(rows[g], kScaleBlock) * kScaleBlock;
    list.push_back({begin, begin + rows[g], limit});
    begin = limit;
  }
  return list;
}

float max_magnitude(float amax, float x) {
  return std::abs(x) > amax ? std::abs(x) : amax;
}

// One group of values: codes through `put`, the scale as result.
template <class Get, class Put>
float cast_group(int64_t count, bool power_of_two, Get get, Put put) {
  float amax = 0;
  for (int64_t i = 0; i < count; ++i) amax = max_magnitude(amax, get(i));
  const float scale = e4m3_scale(amax, power_of_two);
  const float inverse = e4m3_inverse(amax, scale, power_of_two);
  for (int64_t i = 0; i < count; ++i) put(i, to_e4m3(get(i) * inverse));
  return scale;
}

}  // namespace

void cast_rows_reference(const CastRows& c) {
  for (const Rows& g : groups_of(c.groups, c.rows, c.m)) {
    for (int64_t row = g.begin; row < g.limit; ++row) {
      for (int64_t first = 0; first < c.k; first += kScaleBlock) {
        const int64_t at = row * c.k + first;
        c.scales[first / kScaleBlock * c.scale_stride + row] = cast_group(
            std::min<int64_t>(kScaleBlock, c.k - first),
            c.power_of_two,
            [&](int64_t i) { return row < g.end ? to_float(c.x[at + i]) : 0; },
            [&](int64_t i, uint8_t code) { c.codes[at + i] = code; });
      }
    }
  }
}

void cast_columns_reference(const CastColumns& c) {
  const auto value = [&](int64_t token, int64_t column) {
    if (c.x) return to_float(c.x[token * c.k + column]);
    return from_e4m3(c.x_codes[token * c.k + column]) *
           c.x_scales[column / kScaleBlock * c.x_scale_stride + token];
  };
  for (const Rows& g : groups_of(c.groups, c.rows, c.tokens)) {
    for (int64_t first = g.begin; first < g.limit; first += kScaleBlock) {
      for (int64_t column = 0; column < c.k; ++column) {
        c.scales[first / kScaleBlock * c.scale_stride + column] = cast_group(
            std::min<int64_t>(kScaleBlock, g.limit - first),
            c.power_of_two,
            [&](int64_t i) { return first + i < g.end ? value(first + i, column) : 0; },
            [&](int64_t i, uint8_t code) { c.codes[column * c.tokens + first + i] = code; });
      }
    }
  }
}

void cast_blocks_reference(const CastBlocks& c) {
  const int64_t down = ceil_div(c.n, kScaleBlock);
  const int64_t across = ceil_div(c.k, kScaleBlock);
  for (int64_t m = 0; m < c.matrices; ++m) {
    for (int64_t block = 0; block < down * across; ++block) {
      const int64_t row = block / across * kScaleBlock;
      const int64_t column = block % across * kScaleBlock;
      const int64_t width = std::min<int64_t>(kScaleBlock, c.k - column);
      const float scale = cast_group(
          std::min<int64_t>(kScaleBlock, c.n - row) * width,
          c.power_of_two,
          [&](int64_t i) { return c.w[(m * c.n + row + i / width) * c.k + column + i % width]; },
          [&](int64_t i, uint8_t code) {
            const int64_t r = row + i / width;
            const int64_t k = column + i % width;
            c.codes[(m * c.n + r) * c.k + k] = code;
            if (c.transposed_codes) c.transposed_codes[(m * c.k + k) * c.n + r] = code;
          });
      c.scales[m * down * across + block] = scale;
      if (c.transposed_codes) {
        c.transposed_scales[m * down * across + block % across * down + block / across] = scale;
      }
    }
  }
}

}  // namespace rehearse::kernels
