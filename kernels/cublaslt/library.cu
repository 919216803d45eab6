#include <cstdlib>

#include <dlfcn.h>

#include "kernels/devices/find_library.h"

#ifdef REHEARSE_CUBLASLT
#include "kernels/cublaslt/library.h"

namespace rehearse::kernels::gpu {

const CublasLtLibrary& cublaslt() {
  static const CublasLtLibrary loaded = [] {
    CublasLtLibrary l;
    const char* named = std::getenv("REHEARSE_CUBLASLT");
    l.handle = named != nullptr
                   ? dlopen(named, RTLD_NOW | RTLD_LOCAL)
                   : find_library({"libcublasLt.so." + std::to_string(CUBLAS_VER_MAJOR)});
    if (l.handle == nullptr) return l;
#define REHEARSE_LOAD(f)                                       \
  l.f = reinterpret_cast<decltype(&::f)>(dlsym(l.handle, #f)); \
  if (l.f == nullptr) return CublasLtLibrary();
    REHEARSE_BLAS_FUNCTIONS(REHEARSE_LOAD)
#undef REHEARSE_LOAD
    return l;
  }();
  return loaded;
}

}  // namespace rehearse::kernels::gpu
#endif
