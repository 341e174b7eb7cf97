// Instantiates the convolutions with a tied result in bfloat16.
#include "tied_result_launch.h"

namespace symconv::cuda::tied_result {

const Launches kBFloat16 = launches<BFloat16>();

}  // namespace symconv::cuda::tied_result
