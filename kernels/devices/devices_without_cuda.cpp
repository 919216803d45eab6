// The same answers for a build without CUDA.

#include "kernels/devices/devices.h"

namespace rehearse {

std::vector<std::string> gpu_descriptions() {
  return {};
}

std::string why_no_gpu() {
  return "this build has no CUDA";
}

std::string cuda_description() {
  return "built without CUDA";
}

}  // namespace rehearse
