// Instantiates the convolutions with a tied result in tf32.
#include "tied_result_launch.h"

namespace symconv::cuda::tied_result {

const Launches kTensorFloat32 = launches<TensorFloat32>();

}  // namespace symconv::cuda::tied_result
