// Casts on cores beside a copy of as many bytes: build/bench/quantize_benchmark.

#include <cstring>
#include <vector>

#include <benchmark/benchmark.h>

#include "kernels/quantize/quantize.h"

namespace rehearse::kernels {
namespace {

constexpr int64_t kElements = int64_t{1} << 24;  // 64 MiB of FP32: no cache keeps it

struct Operands {
  explicit Operands(int64_t width) : columns(width), rows(kElements / width) {
    const auto n = static_cast<size_t>(rows * columns);
    x.resize(n);
    for (size_t i = 0; i < n; ++i) x[i] = static_cast<float>((i * 2654435761u) % 1000) - 500;
    for (const float v : x) narrow.push_back(to_bf16(v));
    codes.resize(2 * n);
    scales.resize(n / 64 + static_cast<size_t>(rows) + 1024);
  }
  int64_t columns, rows;
  std::vector<float> x;
  std::vector<Bf16> narrow;
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

// bytes: read and written, of an element.
template <typename Work>
void run(benchmark::State& state, double bytes, Work work) {
  Operands o(state.range(0));
  quantize_rows(o.rows, o.columns, o.x.data(), {}, o.codes.data(), o.scales.data(), o.rows);
  for (auto _ : state) {
    work(o);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<int64_t>(bytes * static_cast<double>(o.rows * o.columns) *
                                               static_cast<double>(state.iterations())));
}

void Copy(benchmark::State& s) {
  std::vector<float> to(static_cast<size_t>(kElements));
  run(s, 8, [&](Operands& o) {
    std::memcpy(to.data(), o.x.data(), static_cast<size_t>(o.rows * o.columns) * sizeof(float));
  });
}
void QuantizeRows(benchmark::State& s) {
  run(s, 5, [](Operands& o) {
    quantize_rows(o.rows, o.columns, o.x.data(), {}, o.codes.data(), o.scales.data(), o.rows);
  });
}
void QuantizeRowsOfBf16(benchmark::State& s) {
  run(s, 3, [](Operands& o) {
    quantize_rows(o.rows, o.columns, o.narrow.data(), {}, o.codes.data(), o.scales.data(), o.rows);
  });
}
void DequantizeRows(benchmark::State& s) {
  run(s, 5, [](Operands& o) {
    dequantize_rows(o.rows, o.columns, o.codes.data(), o.scales.data(), o.rows, o.x.data());
  });
}
void RoundColumns(benchmark::State& s) {
  run(s, 8, [](Operands& o) { round_columns(o.rows, o.columns, {}, o.x.data()); });
}
void QuantizeBlocks(benchmark::State& s) {
  run(s, 3, [](Operands& o) {
    quantize_blocks(o.rows, o.columns, o.narrow.data(), false, o.codes.data(), o.scales.data());
  });
}
void PackE5m6(benchmark::State& s) {
  run(s, 5.5, [](Operands& o) {
    pack_e5m6(o.rows, o.columns, o.x.data(), o.codes.data(), o.scales.data(), o.rows);
  });
}
void UnpackE5m6(benchmark::State& s) {
  run(s, 5.5, [](Operands& o) {
    unpack_e5m6(o.rows, o.columns, o.codes.data(), o.scales.data(), o.rows, o.x.data());
  });
}
#define OF_WIDTHS(cast) BENCHMARK(cast)->Arg(96)->Arg(128)->Arg(7168)
OF_WIDTHS(Copy);
OF_WIDTHS(QuantizeRows);
OF_WIDTHS(QuantizeRowsOfBf16);
OF_WIDTHS(DequantizeRows);
OF_WIDTHS(RoundColumns);
OF_WIDTHS(QuantizeBlocks);
OF_WIDTHS(PackE5m6);
OF_WIDTHS(UnpackE5m6);

}  // namespace
}  // namespace rehearse::kernels
