// Instantiates the weight gradients in bfloat16.
#include "wgrad_launch.h"

namespace symconv::cuda::wgrad_tiles {

const Launches kBFloat16 = launches<BFloat16>();

}  // namespace symconv::cuda::wgrad_tiles
