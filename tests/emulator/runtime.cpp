// The stand-in runtime: limits of a launch, opt-in shared memory, kernel names.
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>

#include "cuda_runtime.h"

namespace {

cudaError_t g_last_error = cudaSuccess;

std::map<const void*, int>& shared_limits() {
  static std::map<const void*, int> limits;
  return limits;
}

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) g_last_error = error;
  return error;
}

}  // namespace

cudaError_t cudaGetLastError() {
  const cudaError_t error = g_last_error;
  g_last_error = cudaSuccess;
  return error;
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    default:
      return "invalid argument";
  }
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const auto& s = symconv::emulator::settings();
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = s.multiprocessors;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = s.compute_capability / 10;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = s.compute_capability % 10;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(s.shared_per_block_opt_in);
      return cudaSuccess;
  }
  return remember(cudaErrorInvalidValue);
}

namespace symconv::emulator {

cudaError_t set_shared_limit(const void* kernel, int bytes) {
  if (bytes < 0 || bytes > settings().shared_per_block_opt_in) return remember(cudaErrorInvalidValue);
  shared_limits()[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t check_launch(const void* kernel, const cudaLaunchConfig_t& config) {
  const Settings& s = settings();
  const Dim3 g = config.gridDim, b = config.blockDim;
  const int64_t threads = static_cast<int64_t>(b.x) * b.y * b.z;
  const bool grid_fits =
      g.x > 0 && g.y > 0 && g.z > 0 && g.x <= s.max_grid_x && g.y <= s.max_grid_y && g.z <= s.max_grid_z;
  const bool block_fits = threads > 0 && threads <= s.max_threads_per_block && b.x <= s.max_block_x &&
                          b.y <= s.max_block_y && b.z <= s.max_block_z;
  if (!grid_fits || !block_fits) return remember(cudaErrorInvalidConfiguration);
  // A rule of this project, not of the device: block sizes in whole warps.
  if (threads % 32 != 0) return remember(cudaErrorInvalidConfiguration);
  const auto limit = shared_limits().find(kernel);
  const int64_t allowed = limit == shared_limits().end()
                              ? s.shared_per_block
                              : std::max<int64_t>(limit->second, s.shared_per_block);
  if (static_cast<int64_t>(config.dynamicSmemBytes) > allowed) return remember(cudaErrorInvalidValue);
  return cudaSuccess;
}

std::string kernel_name(const void* kernel) {
  Dl_info info{};
  if (!dladdr(kernel, &info) || !info.dli_sname) return "(unnamed)";
  int status = 0;
  char* demangled = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
  std::string name = demangled ? demangled : info.dli_sname;
  std::free(demangled);
  // Leave out the result type, the namespaces in front and the parameters.
  int depth = 0;
  size_t end = name.size();
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>') --depth;
    if (name[i] == '(' && depth == 0 && i > 0) {
      end = i;
      break;
    }
  }
  name = name.substr(0, end);
  depth = 0;
  size_t begin = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '<') ++depth;
    if (name[i] == '>') --depth;
    if (depth == 0 && (name[i] == ' ' || name[i] == ':')) begin = i + 1;
  }
  return name.substr(begin);
}

}  // namespace symconv::emulator
