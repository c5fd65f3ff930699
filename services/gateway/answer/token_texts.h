#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_TOKEN_TEXTS_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_TOKEN_TEXTS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "qwenserve/v1/tokenizer.pb.h"

namespace qwenserve {

// What the tokens of one tokenizer say, as far as its workers have told, so that most tokens of an
// answer need not go to a worker.
//
// A worker keeps nothing between items: what it answers is a function of the item's pending bytes
// and ids, and many ids give what they give one after the other. So an id that was alone in its
// item, with nothing pending before it and nothing left pending, gives that text whenever nothing
// is pending: whole characters, a control token that is dropped, bytes that are no character.
// Parts of characters leave something pending and are never kept.
//
// Thread-safe, readers take no lock. Grows to at most kMaxIds texts of kMaxTextBytes.
class TokenTexts {
 public:
  static constexpr uint32_t kMaxIds = 1u << 18;  // more than any vocabulary of the family has
  static constexpr size_t kMaxTextBytes = 256;

  TokenTexts();
  ~TokenTexts();

  // nullptr: a worker must be asked.
  const std::string* Find(uint32_t id) const {
    return id < kMaxIds ? texts_[id].load(std::memory_order_acquire) : nullptr;
  }
  // Keeps what the worker's answer to this item says about its id, if it says something.
  void Learn(const v1::DetokenizeItem& item, const v1::DetokenizeResult& result);

 private:
  const std::unique_ptr<std::atomic<const std::string*>[]> texts_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_TOKEN_TEXTS_H_
