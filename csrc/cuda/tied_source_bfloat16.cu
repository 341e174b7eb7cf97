// Instantiates the convolutions with a tied source in bfloat16.
#include "tied_source_launch.h"

namespace symconv::cuda::tied_source {

const Launches kBFloat16 = launches<BFloat16>();

}  // namespace symconv::cuda::tied_source
