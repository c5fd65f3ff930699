// Any bytes as tokenizer.json (first byte even) or qwen.tiktoken (odd): a refusal, or a tokenizer
// that loses no byte of a text and never writes a special token.
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "engine/tokenizer/tokenizer.h"

namespace {

std::string MakeDirectory() {
  std::string path = (std::filesystem::temp_directory_path() / "fuzz_tokenizer.XXXXXX").string();
  if (mkdtemp(path.data()) == nullptr) std::abort();
  return path;
}

void Check(const qwenserve::Tokenizer& tokenizer) {
  const std::string text = "lower newer \xe4\xbd\xa0 <|im_start|> 12345\n\n  looooooooooooower";
  const auto ids = tokenizer.Encode(text);
  if (!ids.ok()) std::abort();
  std::string bytes;
  for (const int32_t id : *ids) {
    if (!tokenizer.HasToken(id) || tokenizer.IsSpecial(id)) std::abort();
    bytes.append(tokenizer.TokenBytes(id).data(), tokenizer.TokenBytes(id).size());
  }
  if (bytes != text) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string directory = MakeDirectory();
  if (size == 0) return 0;
  const std::string json = directory + "/tokenizer.json", tiktoken = directory + "/qwen.tiktoken";
  {
    std::ofstream file(data[0] % 2 == 0 ? json : tiktoken, std::ios::binary);
    file.write(reinterpret_cast<const char*>(data) + 1, static_cast<std::streamsize>(size - 1));
  }
  const auto tokenizer = qwenserve::Tokenizer::Load(directory);
  if (tokenizer.ok()) Check(**tokenizer);
  std::filesystem::remove(json);
  std::filesystem::remove(tiktoken);
  return 0;
}
