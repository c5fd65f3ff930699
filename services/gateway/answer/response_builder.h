#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_RESPONSE_BUILDER_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_RESPONSE_BUILDER_H_

#include "qwenserve/v1/inference.pb.h"
#include "services/gateway/answer/answer_parser.h"

namespace qwenserve {

// A call's output as the messages of the API. Overloads rather than names, so that one reactor
// template serves Chat and Complete.

// Replaces the message's delta, and uses the memory of the one before.
void SetDelta(AnswerDelta delta, v1::StreamChatResponse* response);
void SetDelta(AnswerDelta delta, v1::StreamCompleteResponse* response);

// Appends to the answer as a whole; choices are made as they appear.
void AppendDelta(AnswerDelta delta, v1::ChatResponse* response);
void AppendDelta(AnswerDelta delta, v1::CompleteResponse* response);
void SetFinished(const v1::Finished& finished, v1::ChatResponse* response);
void SetFinished(const v1::Finished& finished, v1::CompleteResponse* response);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_RESPONSE_BUILDER_H_
