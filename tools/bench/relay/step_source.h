#ifndef QWENSERVE_TOOLS_BENCH_RELAY_STEP_SOURCE_H_
#define QWENSERVE_TOOLS_BENCH_RELAY_STEP_SOURCE_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/server.h"
#include "qwenserve/v1/generator.grpc.pb.h"
#include "qwenserve/v1/tokenizer.pb.h"

namespace qwenserve {

// A generator without an engine: one token for each of its sequences in every step, on time, and it
// remembers when it sent each one. In the process of the client, so that both times are of the same
// clock.
class StepSource final : public v1::Generator::Service {
 public:
  StepSource(const v1::DescribeResponse& tokenizer, absl::Duration step);
  ~StepSource() override;
  std::string address() const;

  // When token `index` left of the request whose prompt begins with this id: all that a relay hands
  // on as it is. InfinitePast when it has not.
  absl::Time SentAt(uint32_t prompt_id, uint32_t index) const;
  void Forget();

  grpc::Status Session(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::SessionResponse, v1::SessionRequest>* stream) override;

 private:
  struct Sequence {
    uint32_t prompt_id = 0;
    uint32_t tokens = 0;
    uint32_t max_tokens = 0;
    uint64_t credit = 0;
  };
  struct Peer {
    absl::Mutex write_mutex;
    // nullptr once the session has ended.
    grpc::ServerReaderWriter<v1::SessionResponse, v1::SessionRequest>* stream
        ABSL_GUARDED_BY(write_mutex) = nullptr;
    // Under the source's mutex.
    std::map<uint64_t, Sequence> sequences;
  };

  void Take(Peer& peer, const v1::SessionRequest& request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void RunSteps(absl::Duration step);
  // What the step has for `peer`; empty: nothing.
  v1::SessionResponse MakeStep(Peer& peer) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  v1::ServerHello hello_;
  mutable absl::Mutex mutex_;
  std::set<std::shared_ptr<Peer>> peers_ ABSL_GUARDED_BY(mutex_);
  std::map<uint32_t, std::vector<absl::Time>> sent_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> stop_{false};
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::thread stepper_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_BENCH_RELAY_STEP_SOURCE_H_
