// A stand-in for the CUDA runtime that records what is asked of it and computes nothing.
//
// It is preloaded into a Python with torch's CUDA build, which then sees two GPUs whose memory is the host's.
// The calls that torch and the extension make of the runtime come here instead; those that are not here reach
// the real runtime, which finds no driver and returns an error. Kernels do not run, copies do. What the real
// runtime refuses is refused where this library knows of it: a launch with too much shared memory or on
// another device's stream, and, while a graph is captured, waiting and allocating.
//
// Written to CUDA 13's header, which holds the declarations to it. The functions at the end are for the
// tests.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

struct CUstream_st {
  int device;
};
struct CUevent_st {
  bool captured;  // recorded in a stream that was captured then: who waits for it joins the capture
};
struct CUgraph_st {
  size_t kernels;
};
struct CUgraphExec_st {
  size_t kernels;
};

namespace {

constexpr int kDevices = 2;
constexpr int kMultiprocessors = 132;
constexpr size_t kMemory = size_t{1} << 34;
constexpr int kSharedMemory = 48 * 1024, kSharedMemoryOptIn = 227 * 1024;

struct Capture {
  std::set<cudaStream_t> streams;  // none: nothing is being captured
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool broken = false;
  size_t kernels = 0;
};

std::recursive_mutex mutex;
std::string calls;  // one JSON object a line
Capture capture;
std::map<const void*, std::string> kernel_names;
std::map<std::pair<int, const void*>, int> shared_limits;  // by device and kernel
std::map<void*, size_t> allocations;
size_t allocated = 0;
int launches_until_error = -1;  // below 0: none fails
cudaError_t launch_error = cudaSuccess;

thread_local int current_device = 0;
thread_local cudaError_t last_error = cudaSuccess;
thread_local cudaStreamCaptureMode thread_mode = cudaStreamCaptureModeGlobal;
thread_local std::vector<std::pair<cudaLaunchConfig_t, cudaStream_t>> pushed;

int setting(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

int capability() { return setting("STANDIN_CAPABILITY", 90); }
int driver() { return setting("STANDIN_DRIVER", CUDART_VERSION); }

bool is_captured(cudaStream_t stream) { return capture.streams.count(stream) > 0; }
cudaStreamCaptureStatus capture_status(cudaStream_t stream) {
  if (!is_captured(stream)) return cudaStreamCaptureStatusNone;
  return capture.broken ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive;
}
bool is_legacy(cudaStream_t stream) { return stream == nullptr || stream == cudaStreamLegacy; }

// One call from the outside: holds the lock, and writes its line when it ends.
class Call {
 public:
  Call(const char* name, const void* from) : lock_(mutex) {
    Dl_info library{};
    dladdr(from, &library);
    const char* path = library.dli_fname == nullptr ? "" : library.dli_fname;
    const char* slash = std::strrchr(path, '/');
    line_ << "{\"call\": \"" << name << "\", \"caller\": \"" << (slash == nullptr ? path : slash + 1)
          << "\", \"device\": " << current_device;
  }
  ~Call() { calls += line_.str() + "}\n"; }

  Call& with(const char* name, uint64_t value) {
    line_ << ", \"" << name << "\": " << value;
    return *this;
  }
  Call& with(const char* name, const std::string& value) {
    line_ << ", \"" << name << "\": \"" << value << "\"";
    return *this;
  }
  Call& with(const char* name, dim3 value) {
    line_ << ", \"" << name << "\": [" << value.x << ", " << value.y << ", " << value.z << "]";
    return *this;
  }
  Call& with(cudaStream_t stream) { return with("stream", reinterpret_cast<uint64_t>(stream)); }

  cudaError_t returns(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    with("error", static_cast<uint64_t>(error));
    return error;
  }

  // Of a call that must not be made while a graph is captured.
  cudaError_t unless_capturing() {
    if (capture.streams.empty()) return returns(cudaSuccess);
    capture.broken = true;
    return returns(cudaErrorStreamCaptureUnsupported);
  }
  // Of one that a thread may allow itself, as torch's allocator does.
  cudaError_t unless_capturing_strictly() {
    const bool relaxed =
        thread_mode == cudaStreamCaptureModeRelaxed || capture.mode == cudaStreamCaptureModeRelaxed;
    return relaxed ? returns(cudaSuccess) : unless_capturing();
  }

 private:
  std::lock_guard<std::recursive_mutex> lock_;
  std::ostringstream line_;
};

#define CALL Call(__func__, __builtin_return_address(0))

// Why a launch fails. One on a stream that is not captured does not, whatever else is: torch's streams do not
// wait for the legacy one.
cudaError_t refusal(const void* kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  if (launches_until_error >= 0 && launches_until_error-- == 0) return launch_error;
  if (!is_legacy(stream) && stream->device != current_device) return cudaErrorInvalidResourceHandle;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (grid.x == 0 || grid.x > 2147483647u || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535 ||
      threads == 0 || threads > 1024) {
    return cudaErrorInvalidConfiguration;
  }
  const auto limit = shared_limits.find({current_device, kernel});
  const size_t most = static_cast<size_t>(limit == shared_limits.end() ? kSharedMemory : limit->second);
  return shared > most ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t launch(Call&& call, const void* kernel, dim3 grid, dim3 block, size_t shared,
                   cudaStream_t stream) {
  const bool captured = is_captured(stream);
  call.with("kernel", kernel_names[kernel]).with("grid", grid).with("block", block).with("shared", shared);
  call.with(stream).with("captured", captured);
  const cudaError_t error = refusal(kernel, grid, block, shared, stream);
  if (captured && error == cudaSuccess) ++capture.kernels;
  if (captured && error != cudaSuccess) capture.broken = true;
  return call.returns(error);
}

cudaError_t new_stream(Call&& call, cudaStream_t* stream) {
  *stream = new CUstream_st{current_device};
  return call.with(*stream).returns(cudaSuccess);
}

}  // namespace

extern "C" {

// Kernels and the code around them.

void** __cudaRegisterFatBinary(void*) {
  static void* handle = nullptr;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
void __cudaRegisterFunction(void**, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*,
                            dim3*, int*) {
  const std::lock_guard<std::recursive_mutex> lock(mutex);
  kernel_names[host] = name;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  pushed.emplace_back(config, stream);
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  const auto [config, of] = pushed.back();
  pushed.pop_back();
  *grid = config.gridDim;
  *block = config.blockDim;
  *shared = config.dynamicSmemBytes;
  *static_cast<cudaStream_t*>(stream) = of;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = static_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void**, size_t shared,
                               cudaStream_t stream) {
  return launch(CALL, kernel, grid, block, shared, stream);
}
cudaError_t cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void**, size_t shared,
                             cudaStream_t stream) {
  return launch(CALL, kernel, grid, block, shared, stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void**) {
  return launch(CALL, kernel, config->gridDim, config->blockDim, config->dynamicSmemBytes, config->stream);
}
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  Call call = CALL;
  call.with("kernel", kernel_names[kernel]).with("value", static_cast<uint64_t>(value));
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value > kSharedMemoryOptIn) return call.returns(cudaErrorInvalidValue);
    shared_limits[{current_device, kernel}] = value;
  }
  return call.returns(cudaSuccess);
}

// Devices.

cudaError_t cudaDriverGetVersion(int* version) {
  *version = driver();
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = kDevices;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaSetDevice(int device) {
  Call call = CALL;
  call.with("value", static_cast<uint64_t>(device));
  if (device < 0 || device >= kDevices) return call.returns(cudaErrorInvalidDevice);
  current_device = device;
  return call.returns(cudaSuccess);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "stand-in");
  properties->major = capability() / 10;
  properties->minor = capability() % 10;
  properties->multiProcessorCount = kMultiprocessors;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->maxThreadsPerBlock = 1024;
  properties->warpSize = 32;
  properties->totalGlobalMem = kMemory;
  properties->sharedMemPerBlock = kSharedMemory;
  properties->sharedMemPerBlockOptin = kSharedMemoryOptIn;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const std::map<cudaDeviceAttr, int> values = {
      {cudaDevAttrMultiProcessorCount, kMultiprocessors},
      {cudaDevAttrComputeCapabilityMajor, capability() / 10},
      {cudaDevAttrComputeCapabilityMinor, capability() % 10},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, kSharedMemoryOptIn},
  };
  const auto found = values.find(attribute);
  *value = found == values.end() ? 0 : found->second;
  return CALL.with("attribute", static_cast<uint64_t>(attribute)).returns(cudaSuccess);
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

// Memory.

cudaError_t cudaMalloc(void** pointer, size_t size) {
  Call call = CALL;
  call.with("size", size);
  if (allocated + size > kMemory) return call.returns(cudaErrorMemoryAllocation);
  const cudaError_t error = call.unless_capturing_strictly();
  if (error != cudaSuccess) return error;
  *pointer = std::aligned_alloc(512, (size + 511) / 512 * 512);
  allocations[*pointer] = size;
  allocated += size;
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  const cudaError_t error = CALL.unless_capturing_strictly();
  if (error != cudaSuccess || pointer == nullptr) return error;
  const std::lock_guard<std::recursive_mutex> lock(mutex);
  allocated -= allocations[pointer];
  allocations.erase(pointer);
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = kMemory - allocated;
  *total = kMemory;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void*) {
  *attributes = {};
  attributes->type = cudaMemoryTypeUnregistered;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  std::memcpy(to, from, size);
  return CALL.unless_capturing();
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
  std::memcpy(to, from, size);
  return CALL.with(stream).returns(cudaSuccess);
}
cudaError_t cudaMemset(void* pointer, int value, size_t size) {
  std::memset(pointer, value, size);
  return CALL.unless_capturing();
}
cudaError_t cudaMemsetAsync(void* pointer, int value, size_t size, cudaStream_t stream) {
  std::memset(pointer, value, size);
  return CALL.with(stream).returns(cudaSuccess);
}

// Streams, events and waiting for them.

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return new_stream(CALL, stream); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return new_stream(CALL, stream); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) {
  return new_stream(CALL, stream);
}
cudaError_t cudaStreamGetPriority(cudaStream_t, int* priority) {
  *priority = 0;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Call call = CALL;
  if (event->captured && !capture.streams.empty()) capture.streams.insert(stream);
  return call.with(stream).returns(cudaSuccess);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return CALL.with(stream).unless_capturing(); }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) { return CALL.with(stream).unless_capturing(); }
cudaError_t cudaDeviceSynchronize() { return CALL.unless_capturing(); }

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st{false};
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st{false};
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Call call = CALL;
  event->captured = is_captured(stream);
  return call.with(stream).returns(cudaSuccess);
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}
cudaError_t cudaEventQuery(cudaEvent_t) { return CALL.unless_capturing_strictly(); }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return CALL.unless_capturing(); }

// Graphs.

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Call call = CALL;
  if (is_legacy(stream)) return call.returns(cudaErrorStreamCaptureUnsupported);
  if (!capture.streams.empty()) return call.returns(cudaErrorIllegalState);
  capture = {{stream}, mode, false, 0};
  return call.with(stream).returns(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Call call = CALL;
  call.with(stream).with("kernels", capture.kernels);
  *graph = capture.broken ? nullptr : new CUgraph_st{capture.kernels};
  const bool broken = std::exchange(capture, Capture{}).broken;
  return call.returns(broken ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies, const cudaGraphEdgeData** edges,
                                     size_t* count) {
  Call call = CALL;
  *status = capture_status(stream);
  if (id != nullptr) *id = 1;
  if (graph != nullptr) *graph = nullptr;
  if (dependencies != nullptr) *dependencies = nullptr;
  if (edges != nullptr) *edges = nullptr;
  if (count != nullptr) *count = 0;
  return call.with(stream).returns(cudaSuccess);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Call call = CALL;
  *status = capture_status(stream);
  return call.with(stream).returns(cudaSuccess);
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, thread_mode);
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = graph->kernels;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                          unsigned long long) {
  *executable = new CUgraphExec_st{graph->kernels};
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return CALL.with(stream).with("kernels", executable->kernels).returns(cudaSuccess);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return CALL.returns(cudaSuccess);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return CALL.returns(cudaSuccess);
}

// The driver, as which this library is loaded, too: torch asks for these by name when it starts.

int cuDriverGetVersion(int* version) {
  *version = driver();
  return 0;
}
int cuDevicePrimaryCtxGetState(int, unsigned* flags, int* active) {
  *flags = 0;
  *active = 1;
  return 0;
}
#define NOT_SUPPORTED(name) \
  int name() { return 801; }
NOT_SUPPORTED(cuCtxGetCurrent)
NOT_SUPPORTED(cuCtxSetCurrent)
NOT_SUPPORTED(cuDeviceGet)
NOT_SUPPORTED(cuDeviceGetAttribute)
NOT_SUPPORTED(cuDevicePrimaryCtxRetain)
NOT_SUPPORTED(cuFuncGetAttribute)
NOT_SUPPORTED(cuFuncSetAttribute)
NOT_SUPPORTED(cuFuncSetCacheConfig)
NOT_SUPPORTED(cuGetErrorString)
NOT_SUPPORTED(cuLaunchCooperativeKernel)
NOT_SUPPORTED(cuLaunchKernel)
NOT_SUPPORTED(cuLinkAddData_v2)
NOT_SUPPORTED(cuLinkComplete)
NOT_SUPPORTED(cuLinkCreate_v2)
NOT_SUPPORTED(cuModuleGetFunction)
NOT_SUPPORTED(cuModuleLoad)
NOT_SUPPORTED(cuModuleLoadData)
NOT_SUPPORTED(cuModuleLoadDataEx)
NOT_SUPPORTED(cuModuleUnload)
NOT_SUPPORTED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
NOT_SUPPORTED(cuPointerGetAttribute)
NOT_SUPPORTED(cuTensorMapEncodeTiled)

// For the tests.

// The calls since the last time that this was asked, a JSON object on each line.
const char* standin_calls() {
  static std::string taken;
  const std::lock_guard<std::recursive_mutex> lock(mutex);
  taken = std::exchange(calls, {});
  return taken.c_str();
}

// After this many launches, whoever makes them, one returns this error.
void standin_fail_launch(int after, int error) {
  const std::lock_guard<std::recursive_mutex> lock(mutex);
  launches_until_error = after;
  launch_error = static_cast<cudaError_t>(error);
}

}  // extern "C"
