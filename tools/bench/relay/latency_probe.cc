#include "tools/bench/relay/latency_probe.h"

#include <chrono>
#include <iostream>
#include <memory>
#include <vector>

#include "absl/synchronization/blocking_counter.h"
#include "absl/time/clock.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "qwenserve/v1/inference.grpc.pb.h"
#include "qwenserve/v1/tokenizer.grpc.pb.h"
#include "tools/bench/relay/step_source.h"
#include "tools/qwenctl/bench/latency_histogram.h"

namespace qwenserve {
namespace {

// Of each stream, while the others begin.
constexpr uint32_t kWarmUpTokens = 50;
// Ordinary ids of any vocabulary.
constexpr uint32_t kFirstPrompt = 1000;

class ProbeStream final : public grpc::ClientReadReactor<v1::StreamCompleteResponse> {
 public:
  ProbeStream(v1::Inference::Stub* stub, const StepSource* source, uint32_t prompt_id,
              uint32_t tokens, LatencyHistogram* latency, absl::BlockingCounter* left)
      : source_(source), prompt_id_(prompt_id), latency_(latency), left_(left) {
    request_.mutable_token_ids()->add_ids(prompt_id);
    request_.mutable_options()->set_max_tokens(tokens);
    request_.mutable_options()->set_ignore_eos(true);
    stub->async()->StreamComplete(&context_, &request_, this);
    StartRead(&response_);
    StartCall();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    const absl::Time now = absl::Now();
    const v1::CompletionDelta& delta = response_.delta();
    for (int i = 0; i < delta.token_ids_size(); ++i) {
      const uint32_t index = delta.first_token_index() + static_cast<uint32_t>(i);
      if (index >= kWarmUpTokens) latency_->Record(now - source_->SentAt(prompt_id_, index));
    }
    StartRead(&response_);
  }

  void OnDone(const grpc::Status& status) override {
    if (!status.ok()) std::cerr << "relay_bench: " << status.error_message() << std::endl;
    left_->DecrementCount();
  }

 private:
  const StepSource* const source_;
  const uint32_t prompt_id_;
  LatencyHistogram* const latency_;
  absl::BlockingCounter* const left_;
  grpc::ClientContext context_;
  v1::CompleteRequest request_;
  v1::StreamCompleteResponse response_;
};

void Measure(const ProbeOptions& options, const std::string& address, StepSource& source) {
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  const auto stub = v1::Inference::NewStub(channel);
  LatencyHistogram latency;
  absl::BlockingCounter left(static_cast<int>(options.streams));
  std::vector<std::unique_ptr<ProbeStream>> streams;
  for (uint32_t i = 0; i < options.streams; ++i) {
    streams.push_back(std::make_unique<ProbeStream>(stub.get(), &source, kFirstPrompt + i,
                                                    options.tokens, &latency, &left));
  }
  left.Wait();
  source.Forget();
  std::cout << "{\"p50_us\": " << absl::ToDoubleMicroseconds(latency.Percentile(0.5))
            << ", \"p99_us\": " << absl::ToDoubleMicroseconds(latency.Percentile(0.99))
            << ", \"tokens\": " << latency.count() << "}" << std::endl;
}

}  // namespace

absl::Status RunLatencyProbe(const ProbeOptions& options) {
  const auto channel = grpc::CreateChannel(options.tokenizer, grpc::InsecureChannelCredentials());
  grpc::ClientContext context;
  v1::DescribeResponse tokenizer;
  const grpc::Status status = v1::Tokenizer::NewStub(channel)->Describe(&context, {}, &tokenizer);
  if (!status.ok()) return absl::UnavailableError(status.error_message());
  StepSource source(tokenizer, absl::Milliseconds(options.step_ms));
  std::cout << "source " << source.address() << std::endl;
  for (std::string address; std::getline(std::cin, address);) Measure(options, address, source);
  return absl::OkStatus();
}

}  // namespace qwenserve
