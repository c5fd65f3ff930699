#ifndef QWENSERVE_TOOLS_QWENCTL_ANSWER_OUTPUT_H_
#define QWENSERVE_TOOLS_QWENCTL_ANSWER_OUTPUT_H_

#include <functional>
#include <string>

#include "engine/base/json_reader.h"
#include "tools/qwenctl/gateway_client.h"

namespace qwenserve {

// {"text", "token_ids", "finish_reason", "usage": {"prompt_tokens", "completion_tokens"}, ...}: the
// first four are stable, what follows them may grow. Of several answers these are the first one's,
// and "choices" has all of them.
Json AnswerToJson(const Answer& answer);

// "38 tokens, 41.2 tokens/s, first token after 52 ms, stop".
std::string AnswerStats(const Answer& answer);

// Asks by `ask` for `n` answers, prints them as --output says (text as it comes, or one after the
// other at the end where they are several, then log-probabilities and the statistics on stderr; or
// one line of JSON) and returns the exit status.
int PrintAnswer(const ClientOptions& options, uint32_t n,
                const std::function<absl::StatusOr<Answer>(const GatewayClient::OnText&)>& ask);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_ANSWER_OUTPUT_H_
