# The CUDA language for Hopper with nvcc 13, which CMake 3.25 does not know; REHEARSE_NVCC is the
# compiler. A macro: languages are enabled in the caller's scope.
macro(rehearse_enable_cuda)
  set(CMAKE_CUDA_COMPILER ${REHEARSE_NVCC})
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 90a)
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  endif()
  find_package(CUDAToolkit REQUIRED)
endmacro()
