#ifndef QWENSERVE_TOOLS_BENCH_RELAY_RAW_RELAY_H_
#define QWENSERVE_TOOLS_BENCH_RELAY_RAW_RELAY_H_

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "qwenserve/v1/generator.grpc.pb.h"
#include "qwenserve/v1/inference.grpc.pb.h"

namespace qwenserve {

// The least that can stand between a generator and its clients: one hop of plain gRPC. It reads the
// same session as a gateway, serves the same StreamComplete of token ids, and writes messages of
// the same size, with a constant text for each token. It checks nothing, tokenizes nothing, limits
// nothing, and is what a gateway's cost is compared with.
class RawRelay final : public v1::Inference::CallbackService {
 public:
  // Blocks until the generator at `address` has said hello.
  explicit RawRelay(const std::string& address);
  ~RawRelay() override;

  grpc::ServerWriteReactor<v1::StreamCompleteResponse>* StreamComplete(
      grpc::CallbackServerContext* context, const v1::CompleteRequest* request) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;

 private:
  class Stream;
  void ReadSteps();
  // On a thread of its own: a blocking write has no business on gRPC's callback threads.
  void WriteAll();
  void Write(v1::SessionRequest request);
  void Cancel(uint64_t sequence);

  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Generator::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> session_;
  v1::ServerHello hello_;
  absl::Mutex write_mutex_;
  std::deque<v1::SessionRequest> waiting_ ABSL_GUARDED_BY(write_mutex_);

  absl::Mutex mutex_;
  uint64_t next_sequence_ ABSL_GUARDED_BY(mutex_) = 1;
  std::unordered_map<uint64_t, std::shared_ptr<Stream>> streams_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> stop_{false};
  std::thread reader_;
  std::thread writer_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_RELAY_RAW_RELAY_H_
