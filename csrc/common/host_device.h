// The one macro that lets a function be compiled for the host and for a CUDA device.
#pragma once

#if defined(__CUDACC__)
#define SYMCONV_HD __host__ __device__
#else
#define SYMCONV_HD
#endif
