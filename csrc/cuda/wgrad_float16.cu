// Instantiates the weight gradients in float16.
#include "wgrad_launch.h"

namespace symconv::cuda::wgrad_tiles {

const Launches kFloat16 = launches<Float16>();

}  // namespace symconv::cuda::wgrad_tiles
