// Instantiates the convolutions with a tied result in tf32.
#include "tied_result_launch.h"

namespace symconv::cuda::tied_result {

void launch_tf32(const Convolution& c, const LaunchShape& fold_shape, const FoldedWeightsShape& fold,
                 Word4* folded, int axes, bool shared_rows, const LaunchShape& shape,
                 const TiedResultArguments& arguments, cudaStream_t stream) {
  launch_block<TensorFloat32>(c, fold_shape, fold, folded, axes, shared_rows, shape, arguments, stream);
}

}  // namespace symconv::cuda::tied_result
