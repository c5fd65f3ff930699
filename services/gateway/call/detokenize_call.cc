#include "services/gateway/call/detokenize_call.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "services/common/errors/error_details.h"
#include "services/common/errors/status_mapping.h"

namespace qwenserve {
namespace {

constexpr size_t kIdsPerItem = 256;

}  // namespace

DetokenizeCall::DetokenizeCall(DetokenizeJob job, TextService* text, Done done)
    : job_(std::move(job)), text_(text), done_(std::move(done)), key_(text->NewKey()) {}

void DetokenizeCall::Start() {
  {
    absl::MutexLock lock(&mutex_);
    SendNext();
  }
  text_->Flush();
}

void DetokenizeCall::SendNext() {
  const auto begin = job_.ids.begin() + static_cast<ptrdiff_t>(sent_);
  const size_t count = std::min(kIdsPerItem, job_.ids.size() - sent_);
  v1::DetokenizeItem item;
  item.set_key(key_);
  item.set_seq(seq_);
  item.set_pending(pending_);
  item.mutable_ids()->Add(begin, begin + static_cast<ptrdiff_t>(count));
  sent_ += count;
  flushed_ = sent_ == job_.ids.size();
  item.set_flush(flushed_);
  item.set_keep_special_tokens(job_.keep_special_tokens);
  text_->Detokenize(std::move(item), job_.tokenizer_hash, shared_from_this());
}

absl::Status DetokenizeCall::Append(const v1::DetokenizeResult& result) {
  QS_RETURN_IF_ERROR(FromProtoStatus(result.error()));
  if (job_.given_up()) return absl::CancelledError("the client is gone");
  result_.append(result.text());
  if (result_.size() > job_.max_bytes) {
    return InvalidField("token_ids",
                        absl::StrCat("stand for more than ", job_.max_bytes, " bytes of text"));
  }
  pending_ = result.pending();
  ++seq_;
  return absl::OkStatus();
}

void DetokenizeCall::OnText(v1::DetokenizeResult result) {
  absl::Status error;
  std::string text;
  {
    absl::MutexLock lock(&mutex_);
    error = Append(result);
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
