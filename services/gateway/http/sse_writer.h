#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_SSE_WRITER_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_SSE_WRITER_H_

#include <string>

#include "absl/strings/string_view.h"

namespace qwenserve {

// Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html) into a buffer
// that keeps its memory. An event's data is JSON on one line, written by the caller between Begin
// and End.
class SseWriter {
 public:
  // Starts an event; append its data to the result.
  std::string* Begin() {
    buffer_ += "data: ";
    return &buffer_;
  }
  void End() { buffer_ += "\n\n"; }
  void Event(absl::string_view data) {
    Begin()->append(data.data(), data.size());
    End();
  }
  // Ignored by clients; keeps what is between from closing a connection that seems dead.
  void Comment() { buffer_ += ": waiting\n\n"; }
  void Done() { buffer_ += "data: [DONE]\n\n"; }

  absl::string_view bytes() const { return buffer_; }
  bool empty() const { return buffer_.empty(); }
  // For the next message.
  void Clear() { buffer_.clear(); }

 private:
  std::string buffer_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_SSE_WRITER_H_
