// Instantiates the convolutions with a tied result in float16.
#include "tied_result_launch.h"

namespace symconv::cuda::tied_result {

const Launches kFloat16 = launches<Float16>();

}  // namespace symconv::cuda::tied_result
