#pragma once
// On a GPU, values to codes and back, of any width and with any number of rows: the plain ones, for
// what the fused and fast ones (kernels/fp8_cast/) do not take, and judges of these. The same codes
// and scales as on cores (kernels/quantize/).

#include "kernels/layer_gpu/row_counts.h"
#include "kernels/layer_gpu/values.h"
#include "kernels/ptx/tensor_map.h"

namespace rehearse::kernels {

// How values stand as codes.
enum class CodeFormat : int32_t {
  kTiles,   // E4M3, [rows, columns], a scale per row and 128 columns: [tiles, stride]
  kE5m6,    // twelve bits, packed by row, scales as of tiles, powers of two
  kBlocks,  // E4M3, a scale per 128 x 128: [row blocks, tiles]
};

// Rows of experts: those that are there; scales that rows share are of one expert's.
struct GpuEncode {
  CodeFormat format = CodeFormat::kTiles;
  ConstValues x;  // [rows, columns]
  uint8_t* codes = nullptr;
  float* scales = nullptr;
  int64_t scale_stride = 0;
  int64_t rows = 0, columns = 0;
  bool power_of_two = false;
  bool shared = false;  // of tiles: 128 rows share a scale, each with an entry
  RowCounts counts;
};

struct GpuDecode {
  CodeFormat format = CodeFormat::kTiles;
  const uint8_t* codes = nullptr;  // or null, and values:
  ConstValues x;
  const float* scales = nullptr;
  int64_t scale_stride = 0;
  Values y;  // [rows, columns]
  int64_t rows = 0, columns = 0;
  RowCounts counts;
};

// Values become what E4M3 codes along the columns of a matrix stand for: a scale per column and 128
// rows (or, shared, per 128 x 128), from an expert's first row on.
struct GpuRoundColumns {
  float* x = nullptr;  // [rows, columns]
  int64_t rows = 0, columns = 0;
  bool power_of_two = false;
  bool shared = false;
  RowCounts counts;
};

// Throw std::invalid_argument, naming what is wrong, before anything is started. Of nothing:
// nothing is.
namespace gpu {
void encode(const GpuEncode& e, Stream stream);
void decode(const GpuDecode& d, Stream stream);
void round_columns(const GpuRoundColumns& r, Stream stream);
}  // namespace gpu
namespace imitated {
void encode(const GpuEncode& e, Stream stream);
void decode(const GpuDecode& d, Stream stream);
void round_columns(const GpuRoundColumns& r, Stream stream);
}  // namespace imitated

}  // namespace rehearse::kernels
