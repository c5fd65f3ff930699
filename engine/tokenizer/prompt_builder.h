#ifndef QWENSERVE_ENGINE_TOKENIZER_PROMPT_BUILDER_H_
#define QWENSERVE_ENGINE_TOKENIZER_PROMPT_BUILDER_H_

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/tokenizer/chat_template.h"

namespace qwenserve {

// Collects the pieces of a prompt. What comes from a message goes through Text or Piece only.
class PromptBuilder {
 public:
  // Continues the text piece that stands last, if one does.
  void Text(absl::string_view text) {
    if (!segments_.empty() && segments_.back().kind == Segment::Kind::kText) {
      segments_.back().text.append(text.data(), text.size());
    } else {
      Piece(text);
    }
  }

  // Text that is encoded apart from its neighbours.
  void Piece(absl::string_view text) { Add(Segment::Kind::kText, text); }

  void Control(absl::string_view token) { Add(Segment::Kind::kControl, token); }
  void Markup(absl::string_view token) { Add(Segment::Kind::kMarkup, token); }

  std::vector<Segment> Take() { return std::move(segments_); }

 private:
  void Add(Segment::Kind kind, absl::string_view text) {
    if (!text.empty()) segments_.push_back({kind, std::string(text)});
  }

  std::vector<Segment> segments_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_PROMPT_BUILDER_H_
