#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "services/gateway/answer/response_builder.h"
#include "services/gateway/http/answer_frame.h"
#include "services/gateway/http/openai_response.h"

namespace qwenserve {
namespace {

// Characters that begin in `bytes`; whole tokens of a text add up to its length.
uint64_t CountCharacters(absl::string_view bytes) {
  return static_cast<uint64_t>(std::count_if(
      bytes.begin(), bytes.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

// Names of tokens are keys here, so they must differ where the bytes do.
std::string TokenName(absl::string_view bytes) {
  if (IsValidUtf8(bytes)) return std::string(bytes);
  std::string name = "bytes:";
  for (const char c : bytes) {
    absl::StrAppendFormat(&name, "\\x%02x", static_cast<unsigned>(static_cast<uint8_t>(c)));
  }
  return name;
}

// The four parallel arrays of the completions API, as they grow.
class LegacyLogprobs {
 public:
  // A token without a log-probability, such as the first of an echo.
  void AddBare(absl::string_view bytes, uint64_t* offset) {
    Separate();
    AppendJsonString(TokenName(bytes), &tokens_);
    logprobs_ += "null";
    top_ += "null";
    Place(bytes, offset);
  }

  void Add(const v1::TokenLogprob& token, uint64_t* offset) {
    Separate();
    AppendJsonString(TokenName(token.token()), &tokens_);
    AppendLogprob(token.logprob(), &logprobs_);
    top_ += "{";
    bool chosen_there = false;
    for (int i = 0; i < token.top_size(); ++i) {
      chosen_there = chosen_there || token.top(i).token() == token.token();
      AppendAlternative(token.top(i).token(), token.top(i).logprob(), i > 0);
    }
    if (!chosen_there) AppendAlternative(token.token(), token.logprob(), token.top_size() > 0);
    top_ += "}";
    Place(token.token(), offset);
  }

  void AppendTo(std::string* out) const {
    absl::StrAppend(out, "{\"tokens\":[", tokens_, "],\"token_logprobs\":[", logprobs_,
                    "],\"top_logprobs\":[", top_, "],\"text_offset\":[", offsets_, "]}");
  }

 private:
  void Separate() {
    if (tokens_.empty()) return;
    for (std::string* list : {&tokens_, &logprobs_, &top_, &offsets_}) *list += ",";
  }
  void AppendAlternative(absl::string_view bytes, float logprob, bool separate) {
    if (separate) top_ += ",";
    AppendJsonString(TokenName(bytes), &top_);
    top_ += ":";
    AppendLogprob(logprob, &top_);
  }
  void Place(absl::string_view bytes, uint64_t* offset) {
    absl::StrAppend(&offsets_, *offset);
    *offset += CountCharacters(bytes);
  }

  std::string tokens_;
  std::string logprobs_;
  std::string top_;
  std::string offsets_;
};

class CompletionAnswer final : public OpenAiAnswer {
 public:
  CompletionAnswer(const OpenAiStyle& style, int64_t created, uint32_t choices,
                   std::vector<std::string> prompts)
      : style_(style),
        created_(created),
        choices_(choices),
        prompts_(std::move(prompts)),
        offsets_(prompts_.size() * choices),
        wholes_(prompts_.size()) {}

  void Begin(v1::Started started) override {
    prefix_ = AnswerPrefix(started, "text_completion", created_);
    suffix_ = style_.include_usage ? "],\"usage\":null}" : "]}";
  }

  void WriteStart(SseWriter*) override {}

  void WriteDelta(AnswerDelta delta, SseWriter* out) override {
    const bool logprobs = style_.logprobs && !delta.logprobs.empty();
    if (delta.text.empty() && !logprobs) return;
    std::string* json = BeginChunk(delta.choice, delta.text, out);
    if (logprobs) {
      LegacyLogprobs lists;
      for (const auto& token : delta.logprobs) lists.Add(token, &offsets_[delta.choice]);
      lists.AppendTo(json);
    } else {
      *json += "null";
    }
    *json += ",\"finish_reason\":null}";
    *json += suffix_;
    out->End();
  }

  void WriteFinish(const v1::Finished& finished, SseWriter* out) override {
    for (const v1::ChoiceFinish& finish : finished.choices()) {
      std::string* json = BeginChunk(finish.index(), "", out);
      *json += "null,";
      AppendFinishReason(finish, "stop", json);
      *json += "}";
      *json += suffix_;
      out->End();
    }
    if (style_.include_usage) {
      std::string* json = out->Begin();
      absl::StrAppend(json, prefix_, "],\"usage\":");
      AppendUsage(finished.usage(), json);
      *json += "}";
      out->End();
    }
    out->Done();
  }

  void Add(AnswerDelta delta) override {
    v1::CompleteResponse* whole = &wholes_[delta.choice / choices_];
    delta.choice %= choices_;
    AppendDelta(std::move(delta), whole);
  }
  std::string Finish(const v1::Finished& finished) override;

 private:
  // Up to the value of `logprobs`.
  std::string* BeginChunk(uint32_t choice, absl::string_view text, SseWriter* out) {
    std::string* json = out->Begin();
    absl::StrAppend(json, prefix_, "{\"index\":", choice, ",\"text\":");
    AppendJsonString(text, json);
    *json += ",\"logprobs\":";
    return json;
  }
  // The tokens of the prompt, whose first one nothing precedes: it is what the others leave over.
  void AddPrompt(size_t index, LegacyLogprobs* lists, uint64_t* offset) const {
    const std::string& prompt = prompts_[index];
    const auto& tokens = wholes_[index].prompt_logprobs();
    size_t others = 0;
    for (const auto& token : tokens) others += token.token().size();
    lists->AddBare(prompt.substr(0, prompt.size() - std::min(others, prompt.size())), offset);
    for (const auto& token : tokens) lists->Add(token, offset);
  }

  const OpenAiStyle style_;
  const int64_t created_;
  const uint32_t choices_;  // of each prompt
  const std::vector<std::string> prompts_;
  std::vector<uint64_t> offsets_;  // of each choice's next token
  std::string prefix_;
  std::string suffix_;
  std::vector<v1::CompleteResponse> wholes_;  // of each prompt
};

std::string CompletionAnswer::Finish(const v1::Finished& finished) {
  const v1::CompletionChoice nothing;
  std::string json = prefix_;
  for (int i = 0; i < finished.choices_size(); ++i) {
    const size_t prompt = static_cast<size_t>(i) / choices_;
    const int place = i % static_cast<int>(choices_);
    const v1::CompleteResponse& whole = wholes_[prompt];
    const v1::CompletionChoice& choice =
        place < whole.choices_size() ? whole.choices(place) : nothing;
    absl::StrAppend(&json, i > 0 ? "," : "", "{\"index\":", i, ",\"text\":");
    AppendJsonString(choice.text(), &json);
    json += ",\"logprobs\":";
    if (style_.logprobs) {
      LegacyLogprobs lists;
      uint64_t offset = 0;
      if (style_.echo) AddPrompt(prompt, &lists, &offset);
      for (const auto& token : choice.logprobs()) lists.Add(token, &offset);
      lists.AppendTo(&json);
    } else {
      json += "null";
    }
    json += ",";
    AppendFinishReason(finished.choices(i), "stop", &json);
    json += "}";
  }
  AppendAnswerEnd(finished.usage(), &json);
  return json;
}

}  // namespace

std::unique_ptr<OpenAiAnswer> MakeCompletionAnswer(const OpenAiStyle& style, int64_t created,
                                                   uint32_t choices,
                                                   std::vector<std::string> prompts) {
  return std::make_unique<CompletionAnswer>(style, created, choices, std::move(prompts));
}

}  // namespace qwenserve
