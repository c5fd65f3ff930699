#ifndef QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_RESPONSE_H_
#define QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_RESPONSE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "qwenserve/v1/inference.pb.h"
#include "services/gateway/answer/answer_parser.h"
#include "services/gateway/http/openai_request.h"
#include "services/gateway/http/sse_writer.h"

namespace qwenserve {

// A call's output as OpenAI's JSON, as a whole or as the chunks of a stream. Fed with the outputs
// of GenerateCall in their order. Extensions: `reasoning_content`, `stop_reason` of a choice (the
// stop string that ended it), and `seed`, with which the request can be repeated.
class OpenAiAnswer {
 public:
  virtual ~OpenAiAnswer() = default;

  // The first output.
  virtual void Begin(v1::Started started) = 0;

  // For a stream: each writes the events it stands for, none or several.
  virtual void WriteStart(SseWriter* out) = 0;
  virtual void WriteDelta(AnswerDelta delta, SseWriter* out) = 0;
  // The last chunks, usage and [DONE].
  virtual void WriteFinish(const v1::Finished& finished, SseWriter* out) = 0;

  // For the whole at once.
  virtual void Add(AnswerDelta delta) = 0;
  virtual std::string Finish(const v1::Finished& finished) = 0;
};

// `created`: seconds since the epoch. `choices`: n.
std::unique_ptr<OpenAiAnswer> MakeChatAnswer(const OpenAiStyle& style, int64_t created,
                                             uint32_t choices);
// `prompts`: their texts, for the log-probabilities of an echo; empty where there is none. The j-th
// choice of the i-th is i * choices + j.
std::unique_ptr<OpenAiAnswer> MakeCompletionAnswer(const OpenAiStyle& style, int64_t created,
                                                   uint32_t choices,
                                                   std::vector<std::string> prompts);

// `{"prompt_tokens":...}`.
void AppendUsage(const v1::Usage& usage, std::string* out);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_HTTP_OPENAI_RESPONSE_H_
