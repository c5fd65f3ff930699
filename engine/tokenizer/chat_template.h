#ifndef QWENSERVE_ENGINE_TOKENIZER_CHAT_TEMPLATE_H_
#define QWENSERVE_ENGINE_TOKENIZER_CHAT_TEMPLATE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/json_reader.h"
#include "engine/tokenizer/tokenizer.h"

namespace qwenserve {

class PromptBuilder;

// A call that the assistant made earlier in the conversation.
struct ToolCall {
  std::string id{};  // the client's correlation id; never rendered
  std::string name{};
  std::string arguments{};  // JSON text of an object; empty means {}
};

struct ChatMessage {
  std::string role{};  // "system", "user", "assistant" or "tool"
  std::string content{};
  // Assistant only. When absent, a <think> block inside `content` is taken for it where the
  // template knows reasoning.
  std::optional<std::string> reasoning_content{};
  std::vector<ToolCall> tool_calls{};  // assistant only
  std::string tool_call_id{};          // tool only; never rendered
  std::string name{};                  // never rendered
};

struct ChatOptions {
  // Each one the JSON text {"type": "function", "function": {"name", "description",
  // "parameters"}}. Key order reaches the model as written.
  std::vector<std::string> tools{};
  // Unset: the template's own default. Refused where the template has no such switch and the
  // value contradicts what the model does.
  std::optional<bool> enable_thinking{};
  bool add_generation_prompt = true;
  // The last message, an assistant's, is left open for the model to go on with; there is no
  // generation prompt then.
  bool continue_final_message = false;
  // Set: the prompt begins the answer with a call of this function, which has to be one of the
  // tools; of whichever the model chooses when empty. The model does not think before it.
  std::optional<std::string> forced_call{};
};

// How tools, calls and their results are written.
enum class ToolFormat {
  kNone,    // not at all
  kHermes,  // <tool_call>{"name": ..., "arguments": ...}</tool_call>; Qwen2.5 and 3
  kReAct,   // Thought:, Action:, Action Input:, Observation:; Qwen1 and 1.5
  kFlower,  // ✿FUNCTION✿, ✿ARGS✿, ✿RESULT✿, ✿RETURN✿; Qwen2
};

// One piece of a rendered prompt. Each text piece is encoded by itself.
struct Segment {
  enum class Kind {
    kText,     // plain text, never parsed for special tokens
    kControl,  // the spelling of an added token that the tokenizer must have (`<|im_start|>`)
    // The spelling of an added token of newer vocabularies (`<tool_call>`, `<think>`). In a
    // vocabulary without it, plain text that is encoded together with its neighbours.
    kMarkup,
  };
  Kind kind;
  std::string text;

  friend bool operator==(const Segment&, const Segment&) = default;
};

// The prompt format of one generation of chat models. A value; rendering is thread-safe.
class ChatTemplate {
 public:
  // qwen1, qwen1.5, qwen2, qwen2.5, qwen3, qwen3-instruct-2507 or qwen3-thinking-2507; anything
  // else is INVALID_ARGUMENT and lists these.
  static absl::StatusOr<ChatTemplate> ByName(absl::string_view name);

  // Chooses by what the checkpoint's folder says: chat_template.jinja or the chat_template of
  // tokenizer_config.json; for Qwen1, qwen.tiktoken together with chat_format "chatml" of
  // generation_config.json. FAILED_PRECONDITION, naming --chat-template, when that is none of
  // the known ones: a guessed prompt format would silently spoil every answer.
  static absl::StatusOr<ChatTemplate> Recognise(const std::string& model_dir);

  // The same template with another way to write tools: "hermes", "react", "flower" or "none";
  // "auto" is the one of its generation. INVALID_ARGUMENT for others, and for "hermes" with qwen1,
  // whose vocabulary and turns have no place for it.
  absl::StatusOr<ChatTemplate> WithToolFormat(absl::string_view name) const;
  ToolFormat tool_format() const { return tool_format_; }

  // The prompt as pieces. Message content is always a part of kText pieces, so no user can
  // forge a turn. INVALID_ARGUMENT names the offending field as `messages[2].role`,
  // `tools[0]`, `enable_thinking`.
  absl::StatusOr<std::vector<Segment>> Render(const std::vector<ChatMessage>& messages,
                                              const ChatOptions& options) const;

  // What of the answer the prompt holds already: the label after which the model goes on behind a
  // tool's result, or the begin of a forced call. Of a conversation that Render takes.
  std::string AnswerOpening(const std::vector<ChatMessage>& messages,
                            const ChatOptions& options) const;

  // As ByName takes it.
  absl::string_view name() const;

  // The generation prompt opens a <think> block itself, so that the model's output starts inside
  // the reasoning and has only the closing tag.
  bool OutputStartsInReasoning() const;

 private:
  struct Format;
  explicit ChatTemplate(const Format* format);
  // Tools, calls and results become texts before the turns are written.
  bool Folds(const std::vector<ChatMessage>& messages, const ChatOptions& options) const;
  absl::Status RenderTurns(const std::vector<ChatMessage>& messages, const std::vector<Json>& tools,
                           const ChatOptions& options, PromptBuilder* prompt) const;

  const Format* format_;  // one of a constant table
  ToolFormat tool_format_;
};

// Ids of a rendered prompt. FAILED_PRECONDITION when the tokenizer lacks a control token that the
// template needs; INVALID_ARGUMENT for text that is not UTF-8.
absl::StatusOr<std::vector<int32_t>> EncodeChat(const Tokenizer& tokenizer,
                                                const std::vector<Segment>& segments);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_CHAT_TEMPLATE_H_
