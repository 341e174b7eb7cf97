// Instantiates the convolutions with a tied result in bfloat16.
#include "tied_result_launch.h"

namespace symconv::cuda::tied_result {

void launch_bfloat16(const Convolution& c, const LaunchShape& fold_shape, const FoldedWeightsShape& fold,
                     Word4* folded, int axes, bool shared_rows, const LaunchShape& shape,
                     const TiedResultArguments& arguments, cudaStream_t stream) {
  launch_block<BFloat16>(c, fold_shape, fold, folded, axes, shared_rows, shape, arguments, stream);
}

}  // namespace symconv::cuda::tied_result
