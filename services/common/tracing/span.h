#ifndef QWENSERVE_SERVICES_COMMON_TRACING_SPAN_H_
#define QWENSERVE_SERVICES_COMMON_TRACING_SPAN_H_

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "services/common/tracing/trace_context.h"

namespace qwenserve {

class Tracer;

// One timed part of a request's work. A default Span records nothing: it is a null pointer, and
// each of its methods one branch. Times are those of the tracer's clock, which is asked where none
// is given.
//
// What is put into a span leaves the process: names, ids, counts and codes only, never anything of
// prompts and answers, nor texts that a client has chosen.
//
// Thread-compatible. The tracer outlives it. Destroying a span that has not ended ends it then.
class Span {
 public:
  // What the work is seen from outside.
  enum class Kind { kInternal, kServer, kClient };
  using Number = std::pair<const char*, int64_t>;

  Span() = default;

  bool recording() const { return data_ != nullptr; }

  // A part of this one; records nothing when this one does not.
  Span Child(const char* name, Kind kind) const {
    return recording() ? MakeChild(name, kind, Now()) : Span();
  }
  Span Child(const char* name, Kind kind, absl::Time start) const {
    return recording() ? MakeChild(name, kind, start) : Span();
  }

  // Attributes. A key should be set once.
  void SetText(const char* key, absl::string_view value) {
    if (recording()) AddText(key, value);
  }
  void SetNumber(const char* key, int64_t value) {
    if (recording()) AddNumber(key, value);
  }
  void SetTexts(const char* key, const std::vector<std::string>& values) {
    if (recording()) AddTexts(key, values);
  }

  // Something that happens now; at most kMaxEvents are kept.
  static constexpr int kMaxEvents = 64;
  void Event(const char* name, absl::string_view cause = "",
             std::initializer_list<Number> numbers = {}) {
    if (recording()) AddEvent(name, cause, numbers);
  }

  // How it ended: code and reason, never the message. A code that is no fault of the server, such
  // as INVALID_ARGUMENT, does not make the span an error.
  void SetStatus(const absl::Status& status) {
    if (recording()) AddStatus(status);
  }

  // Hands it to the tracer; it records nothing any more.
  void End() {
    if (recording()) EndAt(Now());
  }
  void End(absl::Time at) {
    if (recording()) EndAt(at);
  }

  // Not valid() when it records nothing.
  TraceContext context() const { return recording() ? ContextOf() : TraceContext(); }

 private:
  friend class Tracer;
  struct Data;
  struct Ender {
    void operator()(Data* data) const;
  };

  Span MakeChild(const char* name, Kind kind, absl::Time start) const;
  void AddText(const char* key, absl::string_view value);
  void AddNumber(const char* key, int64_t value);
  void AddTexts(const char* key, const std::vector<std::string>& values);
  void AddEvent(const char* name, absl::string_view cause, std::initializer_list<Number> numbers);
  void AddStatus(const absl::Status& status);
  void EndAt(absl::Time at);
  TraceContext ContextOf() const;
  absl::Time Now() const;

  std::unique_ptr<Data, Ender> data_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_TRACING_SPAN_H_
