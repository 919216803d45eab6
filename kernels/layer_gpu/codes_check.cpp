// Codes of values, held to cores'.

#include <algorithm>

#include "kernels/layer_gpu/layer_checking.h"
#include "kernels/quantize/quantize.h"

namespace rehearse::kernels {
namespace {

// Codes, scales and what they stand for, to the bit as on cores. experts: rows of two with none
// between them, padded; else rows alone.
Outcome codes_check(Target& target,
                    CodeFormat format,
                    bool shared,
                    bool experts,
                    int64_t columns,
                    bool narrow,
                    bool power_of_two) {
  const std::string name = named(format == CodeFormat::kE5m6 ? "codes E5M6" : "codes E4M3",
                                 experts ? 3 : 1,
                                 columns,
                                 narrow) +
                           (shared ? " shared" : "") +
                           (format == CodeFormat::kBlocks ? " blocks" : "") +
                           (power_of_two ? " powers" : "");
  Judge judge(name);
  Draw draw(name);
  struct Rows {
    int64_t first, count;
  };
  const std::vector<Rows> there =
      experts ? std::vector<Rows>{{0, 130}, {256, 3}} : std::vector<Rows>{{0, 5}};
  const int64_t rows = experts ? 384 : 5;
  const int64_t tiles = (columns + kScaleBlock - 1) / kScaleBlock, stride = (rows + 3) / 4 * 4;
  const int64_t row_bytes = format == CodeFormat::kE5m6 ? e5m6_bytes(columns) : columns;
  std::vector<float> values = draw.normal(rows * columns, 1e-3);
  for (int64_t i = 0; i < rows * columns; i += 7) values[static_cast<size_t>(i)] *= 1e5f;
  for (int64_t c = 0; c < columns; ++c) values[static_cast<size_t>(columns + c)] = 0;
  const Numbers x(target, values, narrow);
  const DeviceArray<int32_t> counts(target, std::vector<int32_t>{130, 0, 3});
  const RowCounts limit = experts ? RowCounts{counts.get(), 3} : RowCounts();
  const DeviceArray<uint8_t> codes(target, static_cast<size_t>(rows * row_bytes));
  const DeviceArray<float> scales(target, static_cast<size_t>(tiles * stride));
  Numbers back(target, static_cast<size_t>(rows * columns), false),
      turned(target, std::vector<float>(values), false);
  const bool squares = format == CodeFormat::kBlocks;
  target.kernels.encode({.format = format,
                         .x = x,
                         .codes = codes.get(),
                         .scales = scales.get(),
                         .scale_stride = stride,
                         .rows = rows,
                         .columns = columns,
                         .power_of_two = power_of_two,
                         .shared = shared,
                         .counts = limit},
                        {});
  target.kernels.decode({.format = format,
                         .codes = codes.get(),
                         .scales = scales.get(),
                         .scale_stride = stride,
                         .y = back.to(),
                         .rows = rows,
                         .columns = columns,
                         .counts = limit},
                        {});
  const bool rounds = format == CodeFormat::kTiles;
  if (rounds) {
    target.kernels.round_columns({.x = turned.fp32(),
                                  .rows = rows,
                                  .columns = columns,
                                  .power_of_two = power_of_two,
                                  .shared = shared,
                                  .counts = limit},
                                 {});
  }
  target.synchronize();
  for (const Rows& of : there) {
    const int64_t n = of.count;
    std::vector<float> from,
        own(values.begin() + of.first * columns, values.begin() + (of.first + n) * columns);
    for (int64_t i = 0; i < n * columns; ++i) {
      from.push_back(static_cast<float>(x[of.first * columns + i]));
    }
    std::vector<uint8_t> want(static_cast<size_t>(n * row_bytes));
    std::vector<float> want_scales(static_cast<size_t>(tiles * n)), stand(from.size());
    const ScaleRule rule{power_of_two, shared ? kScaleBlock : 1};
    if (format == CodeFormat::kE5m6) {
      pack_e5m6(n, columns, from.data(), want.data(), want_scales.data(), n);
      unpack_e5m6(n, columns, want.data(), want_scales.data(), n, stand.data());
    } else if (squares) {
      std::vector<Bf16> narrowed;
      for (const float v : from) narrowed.push_back(to_bf16(v));
      quantize_blocks(n, columns, narrowed.data(), power_of_two, want.data(), want_scales.data());
      dequantize_blocks(0, n, columns, want.data(), want_scales.data(), stand.data());
    } else {
      quantize_rows(n, columns, from.data(), rule, want.data(), want_scales.data(), n);
      dequantize_rows(n, columns, want.data(), want_scales.data(), n, stand.data());
    }
    const auto at = [](int64_t i) { return static_cast<size_t>(i); };
    const std::vector<uint8_t> got = codes.values(at(of.first * row_bytes), at(n * row_bytes));
    const std::vector<float> values_back = back.read(at(of.first * columns), at(n * columns));
    for (size_t i = 0; i < want.size(); ++i) judge.expect("a code", got[i], want[i], 0, false);
    for (size_t i = 0; i < stand.size(); ++i) {
      judge.expect(
          "a value", static_cast<double>(values_back[i]), static_cast<double>(stand[i]), 0, false);
    }
    if (rounds) {
      round_columns(n, columns, rule, own.data());
      const std::vector<float> rounded = turned.read(at(of.first * columns), at(n * columns));
      for (size_t i = 0; i < own.size(); ++i) {
        judge.expect("a value along rows",
                     static_cast<double>(rounded[i]),
                     static_cast<double>(own[i]),
                     0,
                     false);
      }
    }
  }
  return judge.outcome();
}

}  // namespace

void add_codes_checks(std::vector<LayerCheck>& all) {
  const auto add = [&](const std::string& name, auto run) { add_check(all, name, run); };
  for (const int64_t columns : {1, 127, 130, 260}) {
    for (const bool narrow : {false, true}) {
      for (const bool experts : {false, true}) {
        const auto codes = [&](CodeFormat format, bool shared, bool powers) {
          add(named("codes", experts ? 3 : 1, columns, narrow), [=](Target& t) {
            return codes_check(t, format, shared, experts, columns, narrow, powers);
          });
        };
        codes(CodeFormat::kTiles, false, false);
        codes(CodeFormat::kTiles, true, true);
        codes(CodeFormat::kE5m6, false, true);
        if (narrow && !experts) codes(CodeFormat::kBlocks, false, false);
      }
    }
  }
}

}  // namespace rehearse::kernels
