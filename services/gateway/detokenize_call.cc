#include "services/gateway/detokenize_call.h"

#include <algorithm>
#include <utility>

#include "services/common/status_mapping.h"

namespace qwenserve {
namespace {

constexpr size_t kIdsPerItem = 256;

}  // namespace

DetokenizeCall::DetokenizeCall(std::vector<uint32_t> ids, bool keep_special_tokens,
                               std::string tokenizer_hash, TextService* text, Done done)
    : ids_(std::move(ids)),
      keep_special_tokens_(keep_special_tokens),
      tokenizer_hash_(std::move(tokenizer_hash)),
      text_(text),
      done_(std::move(done)),
      key_(text->NewKey()) {}

void DetokenizeCall::Start() {
  {
    absl::MutexLock lock(&mutex_);
    SendNext();
  }
  text_->Flush();
}

void DetokenizeCall::SendNext() {
  const size_t count = std::min(kIdsPerItem, ids_.size() - sent_);
  v1::DetokenizeItem item;
  item.set_key(key_);
  item.set_seq(seq_);
  item.set_pending(pending_);
  item.mutable_ids()->Add(ids_.begin() + sent_, ids_.begin() + sent_ + count);
  sent_ += count;
  flushed_ = sent_ == ids_.size();
  item.set_flush(flushed_);
  item.set_keep_special_tokens(keep_special_tokens_);
  text_->Detokenize(std::move(item), tokenizer_hash_, shared_from_this());
}

void DetokenizeCall::OnText(v1::DetokenizeResult result) {
  absl::Status error = FromProtoStatus(result.error());
  std::string text;
  {
    absl::MutexLock lock(&mutex_);
    result_.append(result.text());
    pending_ = result.pending();
    ++seq_;
    if (error.ok() && !flushed_) {
      SendNext();  // the stream flushes after each batch of results
      return;
    }
    text = std::move(result_);
  }
  if (error.ok()) {
    done_(std::move(text));
  } else {
    done_(std::move(error));
  }
}

void DetokenizeCall::OnTextFailed(uint64_t key, absl::Status status) { done_(std::move(status)); }

}  // namespace qwenserve
