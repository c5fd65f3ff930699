#ifndef QWENSERVE_SERVICES_GATEWAY_ANSWER_CHOICE_H_
#define QWENSERVE_SERVICES_GATEWAY_ANSWER_CHOICE_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "qwenserve/v1/generator.pb.h"
#include "qwenserve/v1/inference.pb.h"
#include "qwenserve/v1/tokenizer.pb.h"
#include "services/gateway/answer/answer_parser.h"
#include "services/gateway/answer/logprob_lookup.h"
#include "services/gateway/answer/stop_strings.h"
#include "services/gateway/answer/token_texts.h"

namespace qwenserve {

// One of a request's n answers on its way from a generator's ids to a client's text: ids wait for
// the tokenizer, text passes the stop strings and the parser and waits for the client. Never more
// than the credit window waits altogether. No locks, no I/O: GenerateCall drives it.
class Choice {
 public:
  struct Settings {
    uint32_t index = 0;
    // DetokenizeItem.key.
    uint64_t key = 0;
    // Tokens that the generator may be ahead of the client.
    uint32_t credit_window = 0;
    std::vector<std::string> stop;
    // Further texts that end the answer, but are the template's business, not the client's.
    std::vector<std::string> format_stop;
    v1::AnswerFormat format;
    // nullptr: tool calls are text.
    std::shared_ptr<const ToolPolicy> tools;
    // Begins the answer's text.
    std::string echo_text;
    // Each token has its log-probability with it.
    bool logprobs = false;
    // Tokens that need no tokenizer; may be null.
    std::shared_ptr<const TokenTexts> known;
  };
  explicit Choice(Settings settings);

  // Takes the ids and the normal finish of a sequence event. INTERNAL when the generator breaks
  // the protocol.
  absl::Status OnEvent(const v1::SequenceEvent& event);

  // The sequence goes on at another replica, which is told the ids received so far and begins the
  // log-probabilities of the prompt anew. Returns the credit to give it: what the one before it had
  // left. The caller sees to it that its events come no more.
  uint32_t OnResume();

  // Turns what needs no tokenizer into text: ids whose text is known, when nothing is pending
  // before them and nothing but ids is asked. Call it before NextItem.
  void DecodeKnown();
  // What the tokenizer should do next, if anything; at most one item is out at a time, because
  // each needs the bytes left over by the one before. It also looks up the bytes of tokens.
  std::optional<v1::DetokenizeItem> NextItem();
  absl::Status OnText(const v1::DetokenizeResult& result);

  bool HasDelta() const { return !delta_.empty(); }
  // All that there is, but of a long prompt's log-probabilities no more than fit into a message:
  // what comes after them waits for the next delta.
  AnswerDelta TakeDelta();
  // The client has taken so many tokens. Returns the credit to give the generator now: not for
  // every token, so that credits cost one message in many.
  uint32_t OnTaken(uint32_t tokens);

  bool finished() const { return finish_.has_value(); }
  const v1::ChoiceFinish& finish() const { return *finish_; }
  uint64_t key() const { return settings_.key; }
  uint32_t received() const { return received_; }
  uint32_t prompt_logprobs_received() const { return prompt_received_; }
  uint32_t completion_tokens() const { return completion_tokens_; }
  uint32_t reasoning_tokens() const { return reasoning_tokens_; }

 private:
  // One more token, which adds `piece` to the text. True when the answer ends with it.
  bool PushToken(uint32_t id, absl::string_view piece);
  // True when the piece completes a stop string.
  bool PushText(absl::string_view piece);
  absl::Status TakeLogprobs(const v1::SequenceEvent& event);
  void AddPromptLogprobs(const v1::DetokenizeResult& result);
  void FinishIfComplete();
  void Finish(v1::FinishReason reason, std::optional<size_t> stop);

  const Settings settings_;
  StopMatcher stop_;
  AnswerParser parser_;

  // From the generator, for the tokenizer.
  uint32_t received_ = 0;
  std::vector<uint32_t> undecoded_;
  std::vector<v1::TokenLogprobs> undecoded_logprobs_;  // one per id
  std::deque<v1::TokenLogprobs> prompt_waiting_;
  uint32_t prompt_received_ = 0;
  uint32_t prompt_sent_ = 0;  // by the replica that has the sequence now
  std::optional<v1::SequenceFinish> generator_finish_;

  // At the tokenizer.
  bool item_out_ = false;
  bool item_flush_ = false;
  std::vector<uint32_t> item_ids_;
  std::vector<v1::TokenLogprobs> item_logprobs_;
  std::vector<v1::TokenLogprobs> item_prompt_;
  LogprobLookup item_lookup_;
  uint64_t item_seq_ = 0;
  std::string pending_;

  // For the client.
  AnswerDelta delta_;
  uint32_t prompt_logprobs_made_ = 0;
  uint32_t completion_tokens_ = 0;
  uint32_t reasoning_tokens_ = 0;
  uint32_t taken_ = 0;
  uint32_t credit_owed_ = 0;
  std::optional<v1::ChoiceFinish> finish_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ANSWER_CHOICE_H_
