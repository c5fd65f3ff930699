#ifndef QWENSERVE_SERVICES_GENERATOR_LOAD_PROGRESS_H_
#define QWENSERVE_SERVICES_GENERATOR_LOAD_PROGRESS_H_

#include <cstdint>

#include "absl/time/time.h"

namespace qwenserve {

// Shows how far the loading of a checkpoint is, on stderr: a line that is redrawn on a terminal, a
// log line every five seconds elsewhere. One thread.
class LoadProgressPrinter {
 public:
  LoadProgressPrinter();

  // Bytes of the checkpoint's tensors.
  void Show(int64_t done, int64_t total);

 private:
  const bool terminal_;
  const absl::Time start_;
  absl::Time last_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_LOAD_PROGRESS_H_
