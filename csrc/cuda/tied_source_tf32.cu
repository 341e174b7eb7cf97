// Instantiates the convolutions with a tied source in tf32.
#include "tied_source_launch.h"

namespace symconv::cuda::tied_source {

const Launches kTensorFloat32 = launches<TensorFloat32>();

}  // namespace symconv::cuda::tied_source
