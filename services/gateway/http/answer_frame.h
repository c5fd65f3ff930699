#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_ANSWER_FRAME_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_ANSWER_FRAME_H_

#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "qwenserve/v1/inference.pb.h"
#include "services/gateway/http/json_text.h"
#include "services/gateway/http/openai_response.h"

namespace qwenserve {

// `{"id":...,"choices":[` up to the first choice: the same in every chunk of a stream.
inline std::string AnswerPrefix(const v1::Started& started, absl::string_view object,
                                int64_t created) {
  std::string prefix = "{\"id\":";
  AppendJsonString(started.request_id(), &prefix);
  absl::StrAppend(&prefix, ",\"object\":\"", object, "\",\"created\":", created, ",\"model\":");
  AppendJsonString(started.model(), &prefix);
  prefix += ",\"system_fingerprint\":";
  if (started.fingerprint().empty()) {
    prefix += "null";
  } else {
    AppendJsonString(started.fingerprint(), &prefix);
  }
  absl::StrAppend(&prefix, ",\"seed\":", started.seed(), ",\"choices\":[");
  return prefix;
}

// `"finish_reason":"stop","stop_reason":...`.
inline void AppendFinishReason(const v1::ChoiceFinish& finish, absl::string_view tool_reason,
                               std::string* out) {
  absl::string_view reason = "stop";
  if (finish.finish_reason() == v1::FINISH_REASON_LENGTH) reason = "length";
  if (finish.finish_reason() == v1::FINISH_REASON_TOOL_CALLS) reason = tool_reason;
  absl::StrAppend(out, "\"finish_reason\":\"", reason, "\",\"stop_reason\":");
  if (finish.has_stop_string()) {
    AppendJsonString(finish.stop_string(), out);
  } else {
    *out += "null";
  }
}

// `],"usage":{...}}`: the end of an answer as a whole, behind its last choice.
inline void AppendAnswerEnd(const v1::Usage& usage, std::string* out) {
  *out += "],\"usage\":";
  AppendUsage(usage, out);
  *out += "}";
}

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_ANSWER_FRAME_H_
