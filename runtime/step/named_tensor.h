#pragma once
// A tensor under the name that everybody knows it by.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace rehearse {

struct NamedTensor {
  std::string name;  // Hugging Face's: model.layers.3.self_attn.o_proj.weight
  std::vector<int64_t> shape;
  std::vector<float> values;
  std::vector<int64_t> whole;  // of whole numbers instead: tokens
};

// What a training holds for every parameter.
enum class StateKind : uint8_t {
  kWeights,
  kGradients,
  kFirstMoments,
  kSecondMoments,
  kAverages  // of the weights (training.ema)
};

// Values of a tensor by its name, of the shape that is asked for. Throws InputError.
using TensorLookup =
    std::function<std::vector<float>(const std::string& name, const std::vector<int64_t>& shape)>;

}  // namespace rehearse
