// Instantiates the weight gradients in tf32.
#include "wgrad_launch.h"

namespace symconv::cuda::wgrad_tiles {

const Launches kTensorFloat32 = launches<TensorFloat32>();

}  // namespace symconv::cuda::wgrad_tiles
