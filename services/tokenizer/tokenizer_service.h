#ifndef QWENSERVE_SERVICES_TOKENIZER_TOKENIZER_SERVICE_H_
#define QWENSERVE_SERVICES_TOKENIZER_TOKENIZER_SERVICE_H_

#include <atomic>
#include <memory>
#include <set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "qwenserve/v1/tokenizer.grpc.pb.h"
#include "services/common/tracing/tracer.h"
#include "services/tokenizer/tokenizer_metrics.h"
#include "services/tokenizer/tokenizer_worker.h"
#include "services/tokenizer/work_queue.h"

namespace qwenserve {

// Carries TokenizerWorker over gRPC. Prepare runs on threads of its own, because a long prompt
// takes long and gRPC's threads serve everyone's tokens; Detokenize runs on gRPC's.
class TokenizerService : public v1::Tokenizer::CallbackService {
 public:
  // Prepares beyond `num_threads` + `max_waiting` are RESOURCE_EXHAUSTED, reason QUEUE_FULL.
  // `tracer`: null for no tracing.
  TokenizerService(const TokenizerWorker& worker, TokenizerMetrics& metrics, int num_threads,
                   size_t max_waiting, const Tracer* tracer = nullptr);

  // Prepares and detokenize messages that are being worked on.
  int64_t InFlight() const { return in_flight_; }
  // Ends the detokenize streams, each after the message that it works on, and refuses new ones.
  void CloseStreams();

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const v1::DescribeRequest* request,
                                     v1::DescribeResponse* response) override;
  grpc::ServerUnaryReactor* Prepare(grpc::CallbackServerContext* context,
                                    const v1::PrepareRequest* request,
                                    v1::PrepareResponse* response) override;
  grpc::ServerBidiReactor<v1::DetokenizeRequest, v1::DetokenizeResponse>* Detokenize(
      grpc::CallbackServerContext* context) override;

 private:
  class DetokenizeStream;

  // Null: not traced.
  std::shared_ptr<Span> BeginSpan(const v1::PrepareRequest& request) const;

  const TokenizerWorker& worker_;
  TokenizerMetrics& metrics_;
  const Tracer* const tracer_;
  std::atomic<int64_t> in_flight_{0};
  absl::Mutex mutex_;
  std::set<DetokenizeStream*> streams_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  WorkQueue queue_;  // last: its jobs use the rest
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_TOKENIZER_TOKENIZER_SERVICE_H_
