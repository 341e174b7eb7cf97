// A stand-in for the CUDA runtime and the kernel language, for compiling csrc/cuda with a host compiler. It
// holds launches to the limits of emulator::settings(). Kernels run at the launch; a kernel that breaks a
// rule makes the launch throw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <utility>

#include "scheduler.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace symconv::emulator {
// threadIdx and its kin: members that read the running thread's coordinates.
template <const Dim3& (*Get)(), unsigned Dim3::* Member>
struct Coordinate {
  operator unsigned() const { return Get().*Member; }
};
template <const Dim3& (*Get)()>
struct Coordinates {
  Coordinate<Get, &Dim3::x> x;
  Coordinate<Get, &Dim3::y> y;
  Coordinate<Get, &Dim3::z> z;
};
}  // namespace symconv::emulator

inline constexpr symconv::emulator::Coordinates<symconv::emulator::thread_index> threadIdx{};
inline constexpr symconv::emulator::Coordinates<symconv::emulator::block_index> blockIdx{};
inline constexpr symconv::emulator::Coordinates<symconv::emulator::block_size> blockDim{};
inline constexpr symconv::emulator::Coordinates<symconv::emulator::grid_size> gridDim{};

using dim3 = symconv::emulator::Dim3;
using cudaStream_t = void*;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
struct cudaLaunchAttribute;
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

namespace symconv::emulator {
cudaError_t set_shared_limit(const void* kernel, int bytes);
// Success, or the error of a launch that the device would refuse.
cudaError_t check_launch(const void* kernel, const cudaLaunchConfig_t& config);
std::string kernel_name(const void* kernel);
}  // namespace symconv::emulator

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value) {
  return symconv::emulator::set_shared_limit(reinterpret_cast<const void*>(kernel), value);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const cudaError_t error = symconv::emulator::check_launch(reinterpret_cast<const void*>(kernel), *config);
  if (error != cudaSuccess) return error;
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> arguments;
  } call{kernel, std::tuple<Parameters...>(std::forward<Arguments>(arguments)...)};
  symconv::emulator::run_grid(
      symconv::emulator::kernel_name(reinterpret_cast<const void*>(kernel)), config->gridDim,
      config->blockDim, config->dynamicSmemBytes,
      [](void* argument) {
        const Call& c = *static_cast<const Call*>(argument);
        std::apply(c.kernel, c.arguments);
      },
      &call);
  return cudaSuccess;
}
