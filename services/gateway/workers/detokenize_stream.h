#ifndef QWENSERVE_SERVICES_GATEWAY_WORKERS_DETOKENIZE_STREAM_H_
#define QWENSERVE_SERVICES_GATEWAY_WORKERS_DETOKENIZE_STREAM_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "grpcpp/client_context.h"
#include "qwenserve/v1/tokenizer.grpc.pb.h"
#include "services/common/clock.h"
#include "services/gateway/answer/text_service.h"

namespace qwenserve {

// One item on its way through the tokenizers, kept until it is answered.
struct TextItem {
  v1::DetokenizeItem item;
  std::string tokenizer_hash;
  std::shared_ptr<TextListener> listener;
  // Since when it waits at its present place.
  absl::Time since;
  // Workers lost with it.
  int losses = 0;
};

// The Detokenize stream to one worker. Items queue until Flush, and while a write is under way, so
// that a busy link carries fewer and larger messages. Thread-safe.
class DetokenizeStream final
    : public grpc::ClientBidiReactor<v1::DetokenizeRequest, v1::DetokenizeResponse>,
      public std::enable_shared_from_this<DetokenizeStream> {
 public:
  // Called without the stream's lock.
  struct Hooks {
    // All results of a message have been handed out.
    std::function<void()> on_results;
    // The stream has ended with these items unanswered.
    std::function<void(std::vector<TextItem>)> on_lost;
    // Learns from what the worker answers.
    std::shared_ptr<TokenTexts> texts;
  };

  DetokenizeStream(Hooks hooks, Clock clock, int max_items_per_message);

  void Open(v1::Tokenizer::Stub* stub);
  // False, with `item` untouched, when the stream has ended.
  bool Add(TextItem&& item);
  void Flush();
  void Close() { Close(false); }
  // As Close, of a worker that is to be used no more: no loss.
  void Leave() { Close(true); }

  bool lost() const;
  // Once done(): whether the worker, or we, ended it in order.
  bool in_order() const;
  // Of the oldest item that is sent and unanswered; zero when there is none.
  absl::Duration OldestAge() const;
  bool done() const { return done_->HasBeenNotified(); }
  void WaitDone() { done_->WaitForNotification(); }

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  void Close(bool in_order);
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const Hooks hooks_;
  const Clock clock_;
  const int max_items_;
  std::shared_ptr<DetokenizeStream> self_;  // from Open to OnDone
  grpc::ClientContext context_;
  v1::DetokenizeResponse incoming_;  // gRPC's between StartRead and OnReadDone
  const std::shared_ptr<absl::Notification> done_ = std::make_shared<absl::Notification>();

  mutable absl::Mutex mutex_;
  bool lost_ ABSL_GUARDED_BY(mutex_) = false;
  bool in_order_ ABSL_GUARDED_BY(mutex_) = false;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  uint64_t step_ ABSL_GUARDED_BY(mutex_) = 0;
  v1::DetokenizeRequest outgoing_;  // gRPC's while writing_
  std::deque<TextItem> queued_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<uint64_t, TextItem> sent_ ABSL_GUARDED_BY(mutex_);  // by key
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_WORKERS_DETOKENIZE_STREAM_H_
