#ifndef QWENSERVE_SERVICES_GATEWAY_CALL_REQUEST_PLAN_H_
#define QWENSERVE_SERVICES_GATEWAY_CALL_REQUEST_PLAN_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/statusor.h"
#include "qwenserve/v1/generator.pb.h"
#include "qwenserve/v1/inference.pb.h"
#include "qwenserve/v1/tokenizer.pb.h"
#include "services/gateway/answer/choice.h"
#include "services/gateway/call/request_validation.h"
#include "services/gateway/routing/model_catalog.h"
#include "services/gateway/routing/placement.h"

namespace qwenserve {

// What a request comes to once its model, and then its prompt, are known. Functions of their
// arguments alone; the prompt is what a tokenizer has prepared for this request.

// The least that the request will ask of a replica, before its prompt is known. Without a deadline.
PlacementRequest LeastPlacement(const GenerateRequest& request, const ServedModel& model);
// What it asks. Without a deadline.
PlacementRequest PlanPlacement(const GenerateRequest& request, const ServedModel& model,
                               const v1::PrepareResponse& prompt, uint32_t max_tokens);

// How many tokens its answer may have: max_tokens, or what the model has room for behind the
// prompt. INVALID_ARGUMENT with the field and the numbers when there is no prompt, when prompt and
// answer are too long for the model, or when an id is not of its vocabulary.
absl::StatusOr<uint32_t> AnswerLimit(const GenerateRequest& request, const ServedModel& model,
                                     const v1::PrepareResponse& prompt);

// Bytes that one token of the answer takes in memory, log-probabilities included.
size_t AnswerTokenBytes(const GenerateRequest& request);
// Bytes that the log-probabilities of the prompt take; 0 when they are not asked for.
size_t PromptLogprobBytes(const GenerateRequest& request, const v1::PrepareResponse& prompt);

// What is the same for all samples and attempts, without the prompt's ids.
v1::Submit MakeSubmit(const GenerateRequest& request, uint32_t max_tokens,
                      const v1::PrepareResponse& prompt);
// How the answers are read; `index`, `key`, `known` and `credit_window` are left to the caller.
Choice::Settings MakeChoiceSettings(const GenerateRequest& request,
                                    const v1::PrepareResponse& prompt);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_CALL_REQUEST_PLAN_H_
