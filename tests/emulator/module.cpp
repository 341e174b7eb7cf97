// The Python side of the emulator: buffers, settings, counters and the probes.
#include "module.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstring>

#include "memory.h"
#include "probes.h"
#include "scheduler.h"

namespace py = pybind11;

namespace symconv::emulator {
namespace {

py::dict counter_dict(const Counters& c) {
  py::dict d;
#define SYMCONV_COUNTER(name) d[#name] = c.name
  SYMCONV_COUNTER(launches);
  SYMCONV_COUNTER(blocks);
  SYMCONV_COUNTER(warps);
  SYMCONV_COUNTER(mma_f16);
  SYMCONV_COUNTER(mma_bf16);
  SYMCONV_COUNTER(mma_tf32);
  SYMCONV_COUNTER(ldmatrix);
  SYMCONV_COUNTER(ldmatrix_wavefronts);
  SYMCONV_COUNTER(shared_loads);
  SYMCONV_COUNTER(shared_load_wavefronts);
  SYMCONV_COUNTER(shared_stores);
  SYMCONV_COUNTER(shared_store_wavefronts);
  SYMCONV_COUNTER(copies);
  SYMCONV_COUNTER(copy_wavefronts);
  SYMCONV_COUNTER(bank_conflicts);
  SYMCONV_COUNTER(global_loads);
  SYMCONV_COUNTER(global_load_bytes);
  SYMCONV_COUNTER(global_load_sectors);
  SYMCONV_COUNTER(global_stores);
  SYMCONV_COUNTER(global_store_bytes);
  SYMCONV_COUNTER(global_store_sectors);
  SYMCONV_COUNTER(packed_math);
  SYMCONV_COUNTER(shuffles);
  SYMCONV_COUNTER(block_barriers);
  SYMCONV_COUNTER(warp_barriers);
#undef SYMCONV_COUNTER
  return d;
}

template <typename T>
T* pointer(const DeviceBuffer& buffer) {
  return reinterpret_cast<T*>(buffer.data());
}

dim3 dims(const std::vector<unsigned>& v) {
  return dim3(v.size() > 0 ? v[0] : 1, v.size() > 1 ? v[1] : 1, v.size() > 2 ? v[2] : 1);
}

void bind_probes(py::module_ probe) {
  using probes::Bug;
  py::enum_<Bug>(probe, "Bug")
      .value("none", Bug::kNone)
      .value("missing_barrier", Bug::kMissingBarrier)
      .value("missing_trail_barrier", Bug::kMissingTrailBarrier)
      .value("missing_wait", Bug::kMissingWait)
      .value("wait_off_by_one", Bug::kWaitOffByOne)
      .value("pending_at_exit", Bug::kPendingAtExit)
      .value("store_overflow", Bug::kStoreOverflow)
      .value("load_overflow", Bug::kLoadOverflow)
      .value("shared_overflow", Bug::kSharedOverflow)
      .value("misaligned_copy", Bug::kMisalignedCopy)
      .value("no_swizzle", Bug::kNoSwizzle)
      .value("divergent_barrier", Bug::kDivergentBarrier)
      .value("partial_warp", Bug::kPartialWarp)
      .value("missing_warp_barrier", Bug::kMissingWarpBarrier)
      .value("block_race", Bug::kBlockRace);
  probe.def("gemm",
            [](const DeviceBuffer& a, const DeviceBuffer& b, const DeviceBuffer& c, int m, int n, int k,
               Bug bug) { probes::gemm(a.data(), b.data(), pointer<float>(c), m, n, k, bug); });
  probe.def("transpose", [](const DeviceBuffer& in, const DeviceBuffer& out, int count, Bug bug) {
    probes::transpose(pointer<uint32_t>(in), pointer<uint32_t>(out), count, bug);
  });
  probe.def("sum", [](const DeviceBuffer& in, const DeviceBuffer& out, int n, Bug bug) {
    probes::sum(pointer<float>(in), pointer<float>(out), n, bug);
  });
  probe.def("diverge", [](const DeviceBuffer& out, Bug bug) { probes::diverge(pointer<float>(out), bug); });
  probe.def("mma_once",
            [](const std::string& type, const DeviceBuffer& a, const DeviceBuffer& b, const DeviceBuffer& c) {
              probes::mma_once(type, pointer<uint32_t>(a), pointer<uint32_t>(b), pointer<float>(c));
            });
  probe.def("load_matrices_once", [](const DeviceBuffer& shared, const DeviceBuffer& rows, int matrices,
                                     bool transposed, const DeviceBuffer& result) {
    probes::load_matrices_once(pointer<uint16_t>(shared), static_cast<int>(shared.size() / 2),
                               pointer<uint32_t>(rows), matrices, transposed, pointer<uint32_t>(result));
  });
  probe.def("touch_shared", [](const DeviceBuffer& addresses, int bytes, int shared_bytes) {
    probes::touch_shared(pointer<uint32_t>(addresses), bytes, shared_bytes);
  });
  probe.def("convert", [](const DeviceBuffer& in, const DeviceBuffer& out, int n) {
    probes::convert(pointer<float>(in), pointer<uint32_t>(out), n);
  });
  probe.def("try_launch",
            [](const std::vector<unsigned>& grid, const std::vector<unsigned>& block, size_t shared,
               bool opt_in) { return probes::try_launch(dims(grid), dims(block), shared, opt_in); });
}

}  // namespace

PYBIND11_MODULE(SYMCONV_EMULATOR_MODULE, m) {
  m.doc() = "An emulated CUDA device for the kernels of csrc/cuda.";
  py::class_<DeviceBuffer>(m, "Buffer", "Device memory with a faulting page behind it.")
      .def(py::init([](const py::array& array, size_t alignment) {
             const py::array source = py::array::ensure(array, py::array::c_style);
             auto buffer = std::make_unique<DeviceBuffer>(static_cast<size_t>(source.nbytes()), alignment);
             if (source.nbytes() > 0)
               std::memcpy(buffer->data(), source.data(), static_cast<size_t>(source.nbytes()));
             return buffer;
           }),
           py::arg("array"), py::arg("alignment") = 16)
      .def_static(
          "zeros", [](size_t bytes) { return std::make_unique<DeviceBuffer>(bytes); },
          "Bytes that take no room before they are touched.")
      .def(
          "view",
          [](const py::object& self) {
            const auto& buffer = self.cast<const DeviceBuffer&>();
            return py::array_t<uint8_t>(static_cast<py::ssize_t>(buffer.size()),
                                        reinterpret_cast<uint8_t*>(buffer.data()), self);
          },
          "The bytes themselves, which live as long as this.")
      .def(
          "numpy",
          [](const DeviceBuffer& buffer) {
            buffer.check_margins();
            py::array_t<uint8_t> bytes(static_cast<py::ssize_t>(buffer.size()));
            if (buffer.size() > 0) std::memcpy(bytes.mutable_data(), buffer.data(), buffer.size());
            return bytes;
          },
          "A copy of the bytes; raises if something was written around the buffer.");
  py::class_<Settings>(m, "Settings")
      .def_readwrite("seed", &Settings::seed)
      .def_readwrite("resident_blocks", &Settings::resident_blocks)
      .def_readwrite("sample_blocks", &Settings::sample_blocks)
      .def_readwrite("last_blocks", &Settings::last_blocks)
      .def_readwrite("multiprocessors", &Settings::multiprocessors)
      .def_readwrite("compute_capability", &Settings::compute_capability)
      .def_readwrite("max_grid_x", &Settings::max_grid_x)
      .def_readwrite("shared_per_block_opt_in", &Settings::shared_per_block_opt_in);
  m.def("settings", &settings, py::return_value_policy::reference);
  m.def("counters", [] {
    py::dict all;
    for (const auto& [name, c] : counters()) all[py::str(name)] = counter_dict(c);
    return all;
  });
  m.def("launches", [] {
    py::list all;
    for (const Launch& launch : launches()) {
      py::dict one;
      one["kernel"] = launch.kernel;
      one["grid"] = py::make_tuple(launch.grid.x, launch.grid.y, launch.grid.z);
      one["block"] = py::make_tuple(launch.block.x, launch.block.y, launch.block.z);
      one["shared_bytes"] = launch.shared_bytes;
      one["counters"] = counter_dict(launch.counters);
      all.append(one);
    }
    return all;
  });
  m.def("reset_counters", [] {
    counters().clear();
    launches().clear();
  });
  bind_probes(m.def_submodule("probes"));
  bind_operators(m);
}

}  // namespace symconv::emulator
