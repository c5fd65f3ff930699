#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_TEXT_SERVICE_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_TEXT_SERVICE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "qwenserve/v1/tokenizer.pb.h"
#include "services/gateway/answer/token_texts.h"

namespace qwenserve {

// How a call turns text into ids and back.
//
// Threads: every method may be called from any thread and never blocks. Listeners are called
// without any lock of the caller, so they may call back; the service may be called with the
// listener's lock held.

class TextListener {
 public:
  virtual ~TextListener() = default;
  virtual void OnText(v1::DetokenizeResult result) = 0;
  // The item cannot be decoded, or no worker has answered for too long.
  virtual void OnTextFailed(uint64_t key, absl::Status status) = 0;
};

class TextService {
 public:
  virtual ~TextService() = default;

  using PrepareCallback = std::function<void(absl::StatusOr<v1::PrepareResponse>)>;
  // Runs at a worker of this hash; the result is of the same hash. `done` is called exactly once,
  // never from within Prepare. The returned function gives up.
  virtual std::function<void()> Prepare(v1::PrepareRequest request,
                                        const std::string& tokenizer_hash, absl::Time deadline,
                                        PrepareCallback done) = 0;

  // For DetokenizeItem.key.
  virtual uint64_t NewKey() = 0;
  // What is known without asking; nullptr: nothing. Grows while calls use it.
  virtual std::shared_ptr<const TokenTexts> KnownTexts(const std::string& tokenizer_hash) {
    return nullptr;
  }
  // Queues one item; a key has at most one item at a time. The listener hears of it exactly once,
  // whichever worker answers. Nothing is sent before Flush, so that the items of one engine step
  // travel in one message.
  virtual void Detokenize(v1::DetokenizeItem item, const std::string& tokenizer_hash,
                          std::shared_ptr<TextListener> listener) = 0;
  virtual void Flush() = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_TEXT_SERVICE_H_
