#ifndef QWENSERVE_TESTS_ENGINE_TOKENIZER_TINY_MODEL_H_
#define QWENSERVE_TESTS_ENGINE_TOKENIZER_TINY_MODEL_H_

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "engine/base/json_reader.h"
#include "engine/tokenizer/tokenizer.h"

namespace qwenserve {

// A folder that lives as long as the object.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  void Write(const std::string& name, absl::string_view text) const;

 private:
  std::string path_;
};

// The small vocabulary that the Qwen2 tokenizer tests of transformers publish: 256 bytes, 14 more
// tokens of which 4 cannot be reached, `<|endoftext|>` as 270; here also `<|im_start|>` 271,
// `<|im_end|>` 272 and, not special, `<tool_call>` 273.
Json TinyTokenizerJson();

// The tokenizer of `json`, which must be good.
std::unique_ptr<Tokenizer> LoadTokenizer(const Json& json);

// The real Qwen vocabulary; the test's fixture has put it where QWENSERVE_QWEN_TIKTOKEN says.
std::string RealModelDir();

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_TOKENIZER_TINY_MODEL_H_
