#ifndef QWENSERVE_SERVICES_GENERATOR_SUBMIT_CONVERSION_H_
#define QWENSERVE_SERVICES_GENERATOR_SUBMIT_CONVERSION_H_

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/runtime/engine.h"
#include "engine/schedule/request.h"
#include "qwenserve/v1/generator.pb.h"

namespace qwenserve {

// Checks a Submit against the replica's limits and turns it into the engine's terms. The gateway
// has checked all of it already; the worker checks again, since a limit that only the edge knows is
// no limit. Errors are INVALID_ARGUMENT and name the field and the numbers.
absl::StatusOr<SequenceRequest> ToSequenceRequest(const v1::Submit& submit, const EngineInfo& info,
                                                  absl::Time now);

// The wire's form of what one step did for one sequence. `prompt_tokens` is told with the first
// tokens and with the finish. A stop id among `eos_ids` is the model's own end of text.
v1::SequenceEvent ToWireEvent(const SequenceEvent& event, uint64_t sequence, uint32_t attempt,
                              int64_t prompt_tokens, absl::Span<const int32_t> eos_ids);

// A Submit that was never started: its one and only event.
v1::SequenceEvent RefusalEvent(const v1::Submit& submit, const absl::Status& reason);

v1::ServerHello MakeServerHello(const EngineInfo& info);
void FillStats(const EngineStats& stats, absl::Duration step_budget, v1::EngineStats* wire);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GENERATOR_SUBMIT_CONVERSION_H_
