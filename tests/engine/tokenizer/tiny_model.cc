#include "tests/engine/tokenizer/tiny_model.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "engine/tokenizer/pretokenizer.h"
#include "engine/tokenizer/unicode.h"
#include "gtest/gtest.h"

namespace qwenserve {

TempDir::TempDir() {
  std::string name = testing::TempDir() + "/tokenizer_XXXXXX";
  const char* const made = mkdtemp(name.data());
  EXPECT_NE(made, nullptr);
  path_ = name;
}

TempDir::~TempDir() { std::filesystem::remove_all(path_); }

void TempDir::Write(const std::string& name, absl::string_view text) const {
  std::ofstream(path_ + "/" + name, std::ios::binary).write(text.data(), text.size());
}

Json TinyTokenizerJson() {
  Json vocab = Json::object();
  const auto add = [&vocab](const std::string& spelling) {
    vocab.emplace(spelling, static_cast<int>(vocab.size()));
  };
  std::vector<char32_t> others;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    std::string spelling;
    if (printable) AppendUtf8(byte, &spelling);
    if (printable) add(spelling);
    if (!printable) others.push_back(0x100 + static_cast<char32_t>(others.size()));
  }
  for (const char32_t code : others) {
    std::string spelling;
    AppendUtf8(code, &spelling);
    add(spelling);
  }
  for (const char* token : {"Ġl", "Ġn", "Ġlo", "Ġlow", "er", "Ġlowest", "Ġnewer", "Ġwider", "01",
                            ";}", ";}Ċ", "\u00cf\u0135", "Ġ#", "##"}) {
    add(token);
  }
  const Json merges = {"Ġ l", "Ġl o", "Ġlo w",         "e r", "0 1",
                       "; }", ";} Ċ", "\u00cf \u0135", "Ġ #", "# #"};
  const auto added = [](int id, const char* content, bool special) {
    return Json{{"id", id}, {"content", content}, {"special", special}};
  };
  return Json{
      {"added_tokens",
       {added(270, "<|endoftext|>", true), added(271, "<|im_start|>", true),
        added(272, "<|im_end|>", true), added(273, "<tool_call>", false)}},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"},
           {"pattern", {{"Regex", kSplitPattern}}},
           {"behavior", "Isolated"},
           {"invert", false}},
          {{"type", "ByteLevel"},
           {"add_prefix_space", false},
           {"trim_offsets", false},
           {"use_regex", false}}}}}},
      {"post_processor", {{"type", "ByteLevel"}, {"trim_offsets", false}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"dropout", nullptr}, {"vocab", vocab}, {"merges", merges}}}};
}

std::unique_ptr<Tokenizer> LoadTokenizer(const Json& json) {
  const TempDir dir;
  dir.Write("tokenizer.json", json.dump());
  auto tokenizer = Tokenizer::Load(dir.path());
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return std::move(tokenizer).value();
}

std::string RealModelDir() {
  const char* const file = std::getenv("QWENSERVE_QWEN_TIKTOKEN");
  EXPECT_NE(file, nullptr) << "set QWENSERVE_QWEN_TIKTOKEN to the path of qwen.tiktoken";
  return file == nullptr ? std::string() : std::filesystem::path(file).parent_path().string();
}

}  // namespace qwenserve
