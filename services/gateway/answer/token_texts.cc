#include "services/gateway/answer/token_texts.h"

#include "absl/strings/match.h"

namespace qwenserve {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";

}  // namespace

TokenTexts::TokenTexts() : texts_(new std::atomic<const std::string*>[kMaxIds]()) {}

TokenTexts::~TokenTexts() {
  for (uint32_t id = 0; id < kMaxIds; ++id) delete texts_[id].load(std::memory_order_relaxed);
}

void TokenTexts::Learn(const v1::DetokenizeItem& item, const v1::DetokenizeResult& result) {
  if (item.ids_size() != 1 || item.ids(0) >= kMaxIds || !item.pending().empty()) return;
  if (item.keep_special_tokens() || result.error().code() != 0 || !result.pending().empty()) return;
  // A flush makes U+FFFD of what else would be pending.
  if (item.flush() && absl::EndsWith(result.text(), kReplacement)) return;
  if (result.text().size() > kMaxTextBytes) return;
  // An answer that contradicts itself is for Choice to refuse.
  if (result.text_lengths_size() != 1 || result.text_lengths(0) != result.text().size()) return;
  std::atomic<const std::string*>& place = texts_[item.ids(0)];
  if (place.load(std::memory_order_relaxed) != nullptr) return;
  auto text = std::make_unique<const std::string>(result.text());
  const std::string* none = nullptr;
  if (place.compare_exchange_strong(none, text.get(), std::memory_order_release)) text.release();
}

}  // namespace qwenserve
