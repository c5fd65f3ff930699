#include "services/gateway/http/openai_response.h"

#include "absl/strings/str_cat.h"

namespace qwenserve {

void AppendUsage(const v1::Usage& usage, std::string* out) {
  absl::StrAppend(
      out, "{\"prompt_tokens\":", usage.prompt_tokens(),
      ",\"completion_tokens\":", usage.completion_tokens(),
      ",\"total_tokens\":", uint64_t{usage.prompt_tokens()} + usage.completion_tokens(),
      ",\"prompt_tokens_details\":{\"cached_tokens\":", usage.cached_prompt_tokens(),
      "},\"completion_tokens_details\":{\"reasoning_tokens\":", usage.reasoning_tokens(), "}}");
}

}  // namespace qwenserve
