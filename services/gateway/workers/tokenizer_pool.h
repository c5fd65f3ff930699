#ifndef QWENSERVE_SERVICES_GATEWAY_WORKERS_TOKENIZER_POOL_H_
#define QWENSERVE_SERVICES_GATEWAY_WORKERS_TOKENIZER_POOL_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "grpcpp/channel.h"
#include "grpcpp/security/credentials.h"
#include "qwenserve/v1/admin.pb.h"
#include "qwenserve/v1/tokenizer.grpc.pb.h"
#include "services/common/clock.h"
#include "services/gateway/answer/text_service.h"
#include "services/gateway/metrics/gateway_metrics.h"
#include "services/gateway/routing/model_catalog.h"
#include "services/gateway/workers/backoff.h"
#include "services/gateway/workers/detokenize_stream.h"

namespace qwenserve {

struct TokenizerSettings {
  std::shared_ptr<grpc::ChannelCredentials> credentials;  // null: plaintext
  absl::Duration describe_interval = absl::Seconds(1);
  absl::Duration describe_timeout = absl::Seconds(2);
  // A worker that leaves an item unanswered for so long is given up.
  absl::Duration item_timeout = absl::Seconds(2);
  // Prompts out at one worker; more wait here. Enough to keep its threads busy over the link: each
  // call that gRPC has costs memory that its allocator may keep.
  int max_prepares_per_worker = 64;
  // How long an answer waits for a tokenizer when there is none.
  absl::Duration no_worker_grace = absl::Seconds(5);
  // An item that was out at so many workers when they were lost is not given to another.
  int max_item_losses = 3;
};

// The tokenizer workers. They keep no state, so those that are alike stand in for each other: a
// Prepare is tried again at another one of its model, for chat templates and limits are the
// model's, and an unanswered Detokenize item is sent to the next one of its hash.
// Prepare and Detokenize use connections of their own. Thread-safe.
class TokenizerPool final : public TextService {
 public:
  // `on_change`: which workers are ready, called without locks.
  TokenizerPool(const TokenizerSettings& settings, std::function<void()> on_change, Clock clock,
                GatewayMetrics* metrics);
  // Shutdown must have been called.
  ~TokenizerPool() override;

  void SetAddresses(const std::vector<std::string>& addresses);
  void Tick(absl::Time now);
  // Ends everything under way and waits for gRPC to let go of it.
  void Shutdown();

  std::vector<KnownTokenizer> Known() const;
  void FillStatus(v1::GetStatusResponse* status) const;

  std::function<void()> Prepare(v1::PrepareRequest request, const std::string& tokenizer_hash,
                                absl::Time deadline, PrepareCallback done) override;
  uint64_t NewKey() override { return next_key_.fetch_add(1); }
  std::shared_ptr<const TokenTexts> KnownTexts(const std::string& tokenizer_hash) override;
  void Detokenize(v1::DetokenizeItem item, const std::string& tokenizer_hash,
                  std::shared_ptr<TextListener> listener) override;
  void Flush() override;

 private:
  struct PrepareOperation;
  struct DescribeOperation;
  using Kind = std::pair<std::string, std::string>;  // model (empty: any), tokenizer hash
  struct Endpoint {
    std::shared_ptr<v1::Tokenizer::Stub> prepare_stub;
    std::shared_ptr<v1::Tokenizer::Stub> detokenize_stub;
    std::shared_ptr<DetokenizeStream> stream;  // there: the worker is ready
    std::shared_ptr<DescribeOperation> describing;
    absl::Time next_describe = absl::InfinitePast();
    Backoff backoff;
    bool listed = true;
    int prepares = 0;
    std::optional<v1::DescribeResponse> description;
    std::string reason;
  };

  void Place(TextItem item);
  void TakeBack(std::vector<TextItem> items);
  void StartDescribe(const std::string& address, Endpoint& endpoint)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnDescribed(const std::string& address, std::shared_ptr<DescribeOperation> operation,
                   const grpc::Status& status);
  std::shared_ptr<TokenTexts> TextsOf(const std::string& tokenizer_hash)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OpenStream(Endpoint& endpoint) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Forgets streams that gRPC is done with, and tells of those that were lost.
  void ReviewEnding() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // False: no worker can take it, now or when it has room.
  bool StartOrQueuePrepare(const std::shared_ptr<PrepareOperation>& operation)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartPrepare(const std::string& address, Endpoint& endpoint,
                    const std::shared_ptr<PrepareOperation>& operation)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Gives the room that workers have to those that wait.
  void StartWaitingPrepares() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Takes those that need not wait any longer, with what to tell them.
  std::vector<std::function<void()>> EndWaitingPrepares(absl::Time now)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnPrepareDone(std::shared_ptr<PrepareOperation> operation, const grpc::Status& status);
  template <typename Operation>
  void EndOperation(std::shared_ptr<Operation> operation);
  bool IsReady(const Endpoint& endpoint) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return endpoint.stream != nullptr;
  }
  bool CanPrepare(const Endpoint& endpoint, const Kind& kind) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const TokenizerSettings settings_;
  const std::function<void()> on_change_;
  const Clock clock_;
  GatewayMetrics* const metrics_;
  std::atomic<uint64_t> next_key_{1};

  mutable absl::Mutex mutex_;
  // Those of workers that have left the list, too, until nothing else uses them: an operation that
  // somebody still holds may end on one of gRPC's own threads, where a channel must not go away.
  std::vector<std::shared_ptr<grpc::Channel>> channels_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, Endpoint> endpoints_ ABSL_GUARDED_BY(mutex_);  // by address
  // By tokenizer hash: of the workers that are there.
  std::map<std::string, std::shared_ptr<TokenTexts>> texts_ ABSL_GUARDED_BY(mutex_);
  // Streams that ended, with their addresses; gRPC may still be at work on them.
  std::vector<std::pair<std::string, std::shared_ptr<DetokenizeStream>>> ending_
      ABSL_GUARDED_BY(mutex_);
  std::list<TextItem> orphans_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::function<void()>> deferred_ ABSL_GUARDED_BY(mutex_);
  std::set<std::shared_ptr<PrepareOperation>> preparing_ ABSL_GUARDED_BY(mutex_);  // at workers
  // Oldest first.
  std::map<Kind, std::list<std::shared_ptr<PrepareOperation>>> waiting_prepares_
      ABSL_GUARDED_BY(mutex_);
  int operations_ ABSL_GUARDED_BY(mutex_) = 0;  // unary calls that gRPC has
  bool shut_down_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_WORKERS_TOKENIZER_POOL_H_
