#include "runtime/memory/tensor.h"

#include <algorithm>

namespace rehearse {

void Tensor::fill(float value) {
  std::fill(data(), data() + size(), value);
}

Tensor converted(const ConstArray& x, const Encoding& to, BufferPool& pool) {
  Tensor out(pool, x.extent.rows, x.extent.columns, to.type);
  convert(x, out, to.scales);
  return out;
}

}  // namespace rehearse
