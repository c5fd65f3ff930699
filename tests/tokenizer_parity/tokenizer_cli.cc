// Drives the tokenizer library from other languages' tests: one JSON object per line on stdin, one
// per line on stdout. Operations: encode, decode, chat (see the handlers).
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/stream_decoder.h"
#include "engine/tokenizer/tokenizer.h"
#include "tests/engine/tokenizer/chat_case.h"

namespace qwenserve {
namespace {

// {"op": "encode", "text"} -> {"ids"}
absl::StatusOr<Json> HandleEncode(const Tokenizer& tokenizer, const Json& request) {
  QS_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                      tokenizer.Encode(request.at("text").get_ref<const std::string&>()));
  return Json{{"ids", ids}};
}

// {"op": "decode", "steps": [[ids], ...], "keep_special"} -> {"texts": [text of each step]}; the
// last step flushes.
absl::StatusOr<Json> HandleDecode(const Tokenizer& tokenizer, const Json& request) {
  Json texts = Json::array();
  std::string pending;
  const Json& steps = request.at("steps");
  for (size_t i = 0; i < steps.size(); ++i) {
    const DecodeItem item{.ids = steps[i].get<std::vector<int32_t>>(),
                          .pending = pending,
                          .flush = i + 1 == steps.size(),
                          .keep_special = request.value("keep_special", false)};
    QS_ASSIGN_OR_RETURN(const DecodeResult result, DecodeStep(tokenizer, item));
    pending = result.pending;
    texts.push_back(result.text);
  }
  return Json{{"texts", texts}};
}

// {"op": "chat", "template", and what chat_case.h reads} -> {"text", "ids"}
absl::StatusOr<Json> HandleChat(const Tokenizer& tokenizer, const Json& request) {
  QS_ASSIGN_OR_RETURN(const ChatTemplate format,
                      ChatTemplate::ByName(request.at("template").get_ref<const std::string&>()));
  QS_ASSIGN_OR_RETURN(const std::vector<Segment> segments,
                      format.Render(ChatMessagesFrom(request), ChatOptionsFrom(request)));
  QS_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, EncodeChat(tokenizer, segments));
  return Json{{"text", Text(segments)}, {"ids", ids}};
}

absl::StatusOr<Json> Handle(const Tokenizer& tokenizer, const Json& request) {
  const std::string op = request.value("op", "");
  if (op == "encode") return HandleEncode(tokenizer, request);
  if (op == "decode") return HandleDecode(tokenizer, request);
  if (op == "chat") return HandleChat(tokenizer, request);
  return absl::InvalidArgumentError(absl::StrCat("op \"", op, "\""));
}

int Run(const std::string& model_dir) {
  const auto tokenizer = Tokenizer::Load(model_dir);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status() << "\n";
    return 1;
  }
  std::string line;
  while (std::getline(std::cin, line)) {
    absl::StatusOr<Json> reply = ParseJson(line, "stdin");
    if (reply.ok()) reply = Handle(**tokenizer, *reply);
    if (!reply.ok()) reply = Json{{"error", reply.status().ToString()}};
    std::cout << reply->dump() << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenizer_cli MODEL_DIR < requests.jsonl\n";
    return 2;
  }
  return qwenserve::Run(argv[1]);
}
