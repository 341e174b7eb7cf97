// What a launch asks of the device, and what a failed one says.
#include <sstream>

#include "launch.h"

namespace symconv::cuda {
namespace {

std::string extents(const int64_t* n) {
  return std::to_string(n[0]) + "x" + std::to_string(n[1]) + "x" + std::to_string(n[2]);
}

}  // namespace

int64_t multiprocessors() {
  int device = 0, count = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("the current device: ") + cudaGetErrorString(error));
  }
  return count;
}

std::string launch_error(const char* what, const std::string& reason, const Problem& p,
                         const LaunchShape& shape) {
  std::ostringstream text;
  text << what << ": " << reason << " (grid " << extents(shape.blocks) << " of " << shape.threads
       << " threads with " << shape.shared_bytes << " bytes of shared memory; batch " << p.batch
       << ", channels " << p.b_channels << " to " << p.a_channels << " in " << p.groups << " groups, map "
       << extents(p.input) << " to " << extents(p.output) << ", kernel " << extents(p.kernel) << ", stride "
       << extents(p.stride) << ", padding " << extents(p.padding) << ", dilation " << extents(p.dilation)
       << ", " << p.unique() << " reduced filters)";
  return text.str();
}

}  // namespace symconv::cuda
