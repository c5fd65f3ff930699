#ifndef QWENSERVE_TOOLS_QWENCTL_BENCH_SSE_READER_H_
#define QWENSERVE_TOOLS_QWENCTL_BENCH_SSE_READER_H_

#include <cstdint>
#include <functional>
#include <string>

#include "absl/strings/string_view.h"

namespace qwenserve {

// What one server-sent event of OpenAI's streams says, as far as a measurement cares.
struct SseChunk {
  bool has_text = false;  // or reasoning, or a piece of a tool call
  bool done = false;      // [DONE]
  bool has_usage = false;
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;
  std::string error;  // its type, or "malformed"
};

SseChunk ReadSseChunk(absl::string_view data);

// Cuts a body, in whatever pieces it comes, into the data of its events. Comments and other fields
// are left out.
class SseReader {
 public:
  using OnData = std::function<void(absl::string_view data)>;
  void Push(absl::string_view bytes, const OnData& on_data);

 private:
  std::string line_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_BENCH_SSE_READER_H_
