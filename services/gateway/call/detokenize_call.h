#ifndef QWENSERVE_SERVICES_GATEWAY_CALL_DETOKENIZE_CALL_H_
#define QWENSERVE_SERVICES_GATEWAY_CALL_DETOKENIZE_CALL_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "services/gateway/answer/text_service.h"

namespace qwenserve {

struct DetokenizeJob {
  std::vector<uint32_t> ids;
  bool keep_special_tokens = false;
  std::string tokenizer_hash;
  // A longer text is INVALID_ARGUMENT: some tokens are a hundred times as long as their id.
  size_t max_bytes = 0;
  // Asked before each piece: nobody waits for the text any more. Then the end is CANCELLED.
  std::function<bool()> given_up;
};

// All ids of one Detokenize request to text, a piece at a time over the stream that also carries
// the answers: a long list must not hold up anyone's tokens. `done` is called exactly once, from
// another thread than Start's. The object keeps itself alive until then.
class DetokenizeCall final : public TextListener,
                             public std::enable_shared_from_this<DetokenizeCall> {
 public:
  using Done = std::function<void(absl::StatusOr<std::string>)>;

  DetokenizeCall(DetokenizeJob job, TextService* text, Done done);

  void Start();

  void OnText(v1::DetokenizeResult result) override;
  void OnTextFailed(uint64_t key, absl::Status status) override;

 private:
  absl::Status Append(const v1::DetokenizeResult& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SendNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const DetokenizeJob job_;
  TextService* const text_;
  const Done done_;
  const uint64_t key_;

  absl::Mutex mutex_;
  size_t sent_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t seq_ ABSL_GUARDED_BY(mutex_) = 0;
  bool flushed_ ABSL_GUARDED_BY(mutex_) = false;
  std::string pending_ ABSL_GUARDED_BY(mutex_);
  std::string result_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_CALL_DETOKENIZE_CALL_H_
