// Instantiates the convolutions with a tied source in float16.
#include "tied_source_launch.h"

namespace symconv::cuda::tied_source {

const Launches kFloat16 = launches<Float16>();

}  // namespace symconv::cuda::tied_source
