// The operators as torch calls them, for any device: check, allocate the result, hand over to the kernels.
//
// A Device is made from a tensor and has the kernels of one kind of device:
//     using View = ...;  the kernels' tensor type: data, dtype, strides of (batch, channels, z, v, h)
//     void fprop(const Problem&, View input, View weight, View bias, View output, bool allow_tf32) const;
// and dgrad, wgrad and mirror alike. It never sees an empty batch. One that has packs has besides
//     int64_t pack_elements(const Problem&, DType) const;
//     void pack(const Problem&, View weight, void* packed) const;
//     bool fits(const Problem&, DType, const void* packed, int64_t elements) const;
//     void forward_packed(const Problem&, View input, const void* packed, View bias, View output) const;
// for the forward pass of the problem's layer: dgrad if it is transposed, else fprop.
#pragma once

#include <tuple>

#include "arguments.h"
#include "result.h"

namespace symconv::binding {

template <typename Device>
class Operators {
 public:
  static Tensor fprop(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                      const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups,
                      const Ints& orbits, bool transposed, bool allow_tf32) {
    check_tensors({"input", input}, {"weight", weight});
    const Problem p = fprop_problem(input, {"weight", weight.sizes().vec()},
                                    {stride, padding, dilation, groups, orbits, transposed});
    check_bias(bias, p.a_channels, {"input", input});
    const Tensor output = new_result(input, output_size(p, stride),
                                     suggests_channels_last(input) || suggests_channels_last(weight));
    if (p.batch > 0) {
      Device(input).fprop(p, read(input), read(weight), read_bias(bias, input), write(output), allow_tf32);
    }
    return output;
  }

  static Tensor dgrad(const Tensor& grad_output, const Tensor& weight, const std::optional<Tensor>& bias,
                      const Ints& input_size, const Ints& stride, const Ints& padding, const Ints& dilation,
                      int64_t groups, const Ints& orbits, bool transposed, bool allow_tf32) {
    check_tensors({"grad_output", grad_output}, {"weight", weight});
    const Problem p = dgrad_problem(grad_output, {"weight", weight.sizes().vec()}, input_size,
                                    {stride, padding, dilation, groups, orbits, transposed});
    check_bias(bias, p.b_channels, {"grad_output", grad_output});
    const Tensor grad_input = new_result(
        grad_output, input_size, suggests_channels_last(grad_output) || suggests_channels_last(weight));
    if (p.batch > 0) {
      Device(grad_output)
          .dgrad(p, read(grad_output), read(weight), read_bias(bias, grad_output), write(grad_input),
                 allow_tf32);
    }
    return grad_input;
  }

  static Tensor wgrad(const Tensor& grad_output, const Tensor& input, const Ints& weight_size,
                      const Ints& stride, const Ints& padding, const Ints& dilation, int64_t groups,
                      const Ints& orbits, bool transposed, bool allow_tf32) {
    check_tensors({"grad_output", grad_output}, {"input", input});
    const Problem p = wgrad_problem(grad_output, input, weight_size,
                                    {stride, padding, dilation, groups, orbits, transposed});
    Tensor grad_weight = new_result(grad_output, weight_size,
                                    suggests_channels_last(grad_output) || suggests_channels_last(input));
    if (p.batch > 0) {
      Device(grad_output).wgrad(p, read(grad_output), read(input), write(grad_weight), allow_tf32);
    } else {
      torch::stable::zero_(grad_weight);
    }
    return grad_weight;
  }

  // The same as they are called where no derivative is recorded.
  static Tensor fprop_no_grad(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                              const Ints& geometry) {
    const FlatGeometry g(geometry);
    return fprop(input, weight, bias, g.stride, g.padding, g.dilation, g.groups, g.orbits, g.transposed,
                 g.allow_tf32);
  }

  static Tensor dgrad_no_grad(const Tensor& grad_output, const Tensor& weight,
                              const std::optional<Tensor>& bias, const Ints& input_size,
                              const Ints& geometry) {
    const FlatGeometry g(geometry);
    return dgrad(grad_output, weight, bias, input_size, g.stride, g.padding, g.dilation, g.groups, g.orbits,
                 g.transposed, g.allow_tf32);
  }

  static Tensor wgrad_no_grad(const Tensor& grad_output, const Tensor& input, const Ints& weight_size,
                              const Ints& geometry) {
    const FlatGeometry g(geometry);
    return wgrad(grad_output, input, weight_size, g.stride, g.padding, g.dilation, g.groups, g.orbits,
                 g.transposed, g.allow_tf32);
  }

  // Both gradients of fprop and of dgrad in one call, for `grad` of its result.
  static std::tuple<Tensor, Tensor> fprop_backward(const Tensor& grad, const Tensor& input,
                                                   const Tensor& weight, const Ints& geometry) {
    return {dgrad_no_grad(grad, weight, std::nullopt, input.sizes().vec(), geometry),
            wgrad_no_grad(grad, input, weight.sizes().vec(), geometry)};
  }

  static std::tuple<Tensor, Tensor> dgrad_backward(const Tensor& grad, const Tensor& grad_output,
                                                   const Tensor& weight, const Ints& geometry) {
    return {fprop_no_grad(grad, weight, std::nullopt, geometry),
            wgrad_no_grad(grad_output, grad, weight.sizes().vec(), geometry)};
  }

  static Tensor mirror(const Tensor& weight, int64_t groups, const Ints& orbits, bool transposed) {
    check_tensors({"weight", weight}, {"weight", weight});
    const Problem p = mirror_problem(weight, groups, orbits, transposed);
    Ints size = weight.sizes().vec();
    size[transposed ? 1 : 0] = transposed ? p.b_channels / p.groups : p.a_channels;
    const Tensor dense = new_result(weight, size, suggests_channels_last(weight));
    Device(weight).mirror(p, read(weight), write(dense));
    return dense;
  }

  // A pack of the weight for the forward pass of its layer, one-dimensional; empty where there is none.
  static Tensor pack(const Tensor& weight, const Ints& stride, const Ints& padding, const Ints& dilation,
                     int64_t groups, const Ints& orbits, bool transposed) {
    check_tensor({"weight", weight});
    const Problem p = pack_problem(weight, {stride, padding, dilation, groups, orbits, transposed});
    const Device device(weight);
    const int64_t elements = device.pack_elements(p, element_type(weight));
    const Tensor packed = new_numbers(weight, elements);
    if (elements > 0) device.pack(p, read(weight), packed.mutable_data_ptr());
    return packed;
  }

  static Tensor fprop_packed(const Tensor& input, const Tensor& packed, const std::optional<Tensor>& bias,
                             const Ints& weight_size, const Ints& geometry, bool channels_last) {
    check_tensor({"input", input});
    const FlatGeometry g(geometry);
    const Problem p = fprop_problem(input, {"weight_size", weight_size}, g.apart());
    check_bias(bias, p.a_channels, {"input", input});
    return forward_packed(p, input, {"input", input}, packed, bias, output_size(p, g.stride), channels_last);
  }

  static Tensor dgrad_packed(const Tensor& grad_output, const Tensor& packed,
                             const std::optional<Tensor>& bias, const Ints& weight_size,
                             const Ints& input_size, const Ints& geometry, bool channels_last) {
    check_tensor({"grad_output", grad_output});
    const FlatGeometry g(geometry);
    Problem p = dgrad_problem(grad_output, {"weight_size", weight_size}, input_size, g.apart());
    keep_stride(p, g.apart());
    check_bias(bias, p.b_channels, {"grad_output", grad_output});
    return forward_packed(p, grad_output, {"grad_output", grad_output}, packed, bias, input_size,
                          channels_last);
  }

 private:
  using View = typename Device::View;
  using DType = decltype(View::dtype);

  // (N, A, *output), with as many spatial dimensions as `stride` has numbers.
  static Ints output_size(const Problem& p, const Ints& stride) {
    Ints size{p.batch, p.a_channels};
    size.insert(size.end(), p.output + (kAxes - stride.size()), p.output + kAxes);
    return size;
  }

  static Tensor forward_packed(const Problem& p, const Tensor& source, const Argument& name,
                               const Tensor& packed, const std::optional<Tensor>& bias, const Ints& size,
                               bool channels_last) {
    check_packed(packed, name);
    const Device device(source);
    const void* numbers = packed.const_data_ptr();
    if (!device.fits(p, element_type(source), numbers, packed.numel())) {
      fail(
          "packed: expected a pack that torch.ops.symconv_ext.pack made with these arguments on a machine "
          "with the CPU kernels in use here, got another one of ",
          packed.numel(), " numbers; pack the weight anew (symconv_ext.prepack)");
    }
    const Tensor result = new_result(source, size, channels_last || suggests_channels_last(source));
    if (p.batch > 0) device.forward_packed(p, read(source), numbers, read_bias(bias, source), write(result));
    return result;
  }

  // Other dtypes do not pass the checks.
  static DType element_type(const Tensor& tensor) {
    switch (tensor.scalar_type()) {
      case ScalarType::Double:
        return DType::kFloat64;
      case ScalarType::Half:
        return DType::kFloat16;
      case ScalarType::BFloat16:
        return DType::kBFloat16;
      default:
        return DType::kFloat32;
    }
  }

  // A tensor (batch or rows, channels or columns, *spatial) as one with three spatial dimensions; the unit
  // ones are in front, and their strides are never used.
  static View view(void* data, const Tensor& tensor) {
    const auto from = tensor.strides();
    const int rank = static_cast<int>(from.size()) - 2;
    View view{data, element_type(tensor), {from[0], from[1], 0, 0, 0}};
    for (int d = 0; d < rank; ++d) view.strides[2 + kAxes - rank + d] = from[2 + d];
    return view;
  }
  // Only read: a copy-on-write tensor stays shared.
  static View read(const Tensor& tensor) { return view(const_cast<void*>(tensor.const_data_ptr()), tensor); }
  static View write(const Tensor& tensor) { return view(tensor.mutable_data_ptr(), tensor); }
  static View read_bias(const std::optional<Tensor>& bias, const Tensor& like) {
    if (!bias) return {nullptr, element_type(like), {}};
    return {const_cast<void*>(bias->const_data_ptr()), element_type(like), {bias->stride(0), 0, 0, 0, 0}};
  }
};

}  // namespace symconv::binding
