#include "runtime/memory/tensor.h"

#include <algorithm>

namespace rehearse {

void Tensor::fill(float value) {
  std::fill(data(), data() + size(), value);
}

Tensor converted(const ConstArray& x, DType type, BufferPool& pool) {
  Tensor out(pool, x.extent.rows, x.extent.columns, type);
  convert(x, out);
  return out;
}

}  // namespace rehearse
