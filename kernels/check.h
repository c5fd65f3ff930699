#ifndef QWENSERVE_KERNELS_CHECK_H_
#define QWENSERVE_KERNELS_CHECK_H_

#include <cstdio>
#include <cstdlib>

// Stops the program when an invariant of our own code is broken. Never for input from outside:
// that becomes an absl::Status. Stays on in release builds, because going on with a broken
// invariant would hand one client another client's tokens.
#define QS_CHECK(condition)                                                              \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)

#endif  // QWENSERVE_KERNELS_CHECK_H_
