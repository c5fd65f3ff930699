#ifndef QWENSERVE_SERVICES_GATEWAY_CALL_SAMPLING_DEFAULTS_H_
#define QWENSERVE_SERVICES_GATEWAY_CALL_SAMPLING_DEFAULTS_H_

#include "qwenserve/v1/inference.pb.h"

namespace qwenserve {

// Every field set: from `request`, else from the model's `defaults`, else the built-in value that
// inference.proto names. The seed is only ever the request's; it must have one.
v1::SamplingParams ResolveSampling(const v1::SamplingParams& request,
                                   const v1::SamplingParams& defaults);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_CALL_SAMPLING_DEFAULTS_H_
