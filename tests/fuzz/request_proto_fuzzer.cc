// Any bytes as a message of the public API or as a gateway's Submit: the first byte chooses which
// one. What the edge lets in the worker lets in too, as far as sampling goes; what the worker takes
// is within its limits.
#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "google/protobuf/stubs/logging.h"
#include "services/gateway/call/request_validation.h"
#include "services/generator/submit_conversion.h"

namespace {

namespace v1 = qwenserve::v1;

qwenserve::EngineInfo Info() {
  qwenserve::EngineInfo info;
  info.config.vocab_size = 1000;
  info.defaults.eos_ids = {2};
  info.max_model_len = 4096;
  info.max_running = info.max_waiting = 4;
  info.kv_block_size = 16;
  return info;
}

void CheckRefusal(const absl::Status& status) {
  if (!absl::IsInvalidArgument(status) && !absl::IsUnimplemented(status)) std::abort();
  // Every refusal begins with the field's path.
  if (status.message().empty() || status.message()[0] == ' ') std::abort();
}

void CheckSubmit(const v1::Submit& submit) {
  const qwenserve::EngineInfo info = Info();
  const auto request = qwenserve::ToSequenceRequest(submit, info, absl::UnixEpoch());
  if (!request.ok()) return CheckRefusal(request.status());
  const auto& sampling = request->sampling;
  const auto total = static_cast<int64_t>(request->prompt_ids.size()) + sampling.max_tokens;
  if (request->prompt_ids.empty() || total > info.max_model_len || sampling.max_tokens < 1 ||
      static_cast<int64_t>(request->resumed_ids.size()) >= sampling.max_tokens) {
    std::abort();
  }
  for (const auto* ids : {&request->prompt_ids, &request->resumed_ids}) {
    for (const int32_t id : *ids) {
      if (id < 0 || id >= info.config.vocab_size) std::abort();
    }
  }
  for (const float value :
       {sampling.temperature, sampling.top_p, sampling.min_p, sampling.repetition_penalty,
        sampling.presence_penalty, sampling.frequency_penalty}) {
    if (!std::isfinite(value)) std::abort();
  }
  if (request->credit < 0 || sampling.num_logprobs > 20) std::abort();
}

// As the gateway would submit it.
void CheckGeneration(const absl::StatusOr<qwenserve::GenerateRequest>& request) {
  if (!request.ok()) return CheckRefusal(request.status());
  const v1::GenerationOptions& options = request->options;
  v1::Submit submit;
  submit.add_prompt_ids(1);
  *submit.mutable_sampling() = options.sampling();
  submit.mutable_sampling()->set_seed(1);
  submit.set_max_tokens(16);
  if (options.has_top_logprobs()) submit.set_top_logprobs(options.top_logprobs());
  submit.set_priority(options.priority());
  submit.set_cache_salt(options.cache_salt());
  const auto taken = qwenserve::ToSequenceRequest(submit, Info(), absl::UnixEpoch());
  // Only the worker knows the vocabulary.
  if (!taken.ok() && !absl::StrContains(taken.status().message(), "logit_bias")) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);  // a line for each string that is no UTF-8
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  const int bytes = static_cast<int>(size - 1);
  const uint8_t* message = data + 1;
  const qwenserve::RequestLimits limits;
  if (data[0] % 5 == 0) {
    v1::ChatRequest request;
    if (request.ParseFromArray(message, bytes)) CheckGeneration(ValidateChat(request, limits));
  } else if (data[0] % 5 == 1) {
    v1::CompleteRequest request;
    if (request.ParseFromArray(message, bytes)) CheckGeneration(ValidateComplete(request, limits));
  } else if (data[0] % 5 == 2) {
    v1::TokenizeRequest request;
    if (!request.ParseFromArray(message, bytes)) return 0;
    const absl::Status status = ValidateTokenize(request, limits);
    if (!status.ok()) CheckRefusal(status);
  } else if (data[0] % 5 == 3) {
    v1::DetokenizeTextRequest request;
    if (!request.ParseFromArray(message, bytes)) return 0;
    const absl::Status status = ValidateDetokenize(request, limits);
    if (!status.ok()) CheckRefusal(status);
  } else {
    v1::Submit submit;
    if (submit.ParseFromArray(message, bytes)) CheckSubmit(submit);
  }
  return 0;
}
