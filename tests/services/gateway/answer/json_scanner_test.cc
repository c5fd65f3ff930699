#include "services/gateway/answer/json_scanner.h"

#include <random>
#include <string>
#include <vector>

#include "engine/base/json_reader.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

bool Accepts(const std::string& text) {
  JsonScanner scanner;
  for (size_t i = 0; i < text.size(); ++i) {
    const JsonScanner::Event event = scanner.Feed(text[i]);
    if (event == JsonScanner::Event::kError) return false;
    if (event == JsonScanner::Event::kEnd) return i + 1 == text.size();
  }
  return false;
}

TEST(JsonScannerTest, TakesObjects) {
  for (const char* text :
       {"{}", " {\n}", R"({"a":1})", R"({"a": -0.5e+10, "b": [true, false, null, [], {}]})",
        R"({"\"\\\/\b\f\n\r\t\u00e9": "é"})", R"({"a": 0, "b": 10, "c": 1E5})"}) {
    EXPECT_TRUE(Accepts(text)) << text;
    EXPECT_TRUE(ParseJson(text, "t").ok()) << text;
  }
}

TEST(JsonScannerTest, RefusesEverythingElse) {
  for (const char* text : {"",
                           "{",
                           "[]",
                           "1",
                           "{a: 1}",
                           "{'a': 1}",
                           R"({"a"})",
                           R"({"a": })",
                           R"({"a": 1,})",
                           R"({"a": 01})",
                           R"({"a": +1})",
                           R"({"a": .5})",
                           R"({"a": 1.})",
                           R"({"a": 1e})",
                           R"({"a": -})",
                           R"({"a": 1e+})",
                           R"({"a": tru})",
                           R"({"a": nul1})",
                           R"({"a": [1,]})",
                           R"({"a": [1})",
                           R"({"a": {]}})",
                           "{\"a\": \"\n\"}",
                           R"({"a": "\x"})",
                           R"({"a": "\u00g0"})",
                           R"({"a": 1 2})",
                           R"({"a": [1 2]})",
                           R"({"a": 1.5.5})"}) {
    EXPECT_FALSE(Accepts(text)) << text;
    EXPECT_FALSE(ParseJson(text, "t").ok() && text[0] == '{') << text;
  }
  const std::string deep(64, '[');
  EXPECT_FALSE(Accepts("{\"a\":" + deep + std::string(64, ']') + "}"));
  EXPECT_TRUE(Accepts("{\"a\":" + deep.substr(1) + std::string(63, ']') + "}"));
}

TEST(JsonScannerTest, AgreesWithTheReader) {
  const std::vector<std::string> words = {"{",     "}",     "[",           "]",    ":", ",",
                                          "\"a\"", "\"b\"", "\"\\u0041\"", "1",    "-", "0",
                                          ".5",    "e1",    "true",        "null", " ", "\"c\":"};
  std::mt19937 random(3);
  int valid = 0;
  for (int round = 0; round < 300000; ++round) {
    std::string text = "{";
    for (size_t i = random() % 8; i > 0; --i) text += words[random() % words.size()];
    text += "}";
    const auto parsed = ParseJson(text, "t");
    const bool twice = parsed.status().message().find("twice") != absl::string_view::npos;
    if (twice) continue;
    ASSERT_EQ(Accepts(text), parsed.ok()) << text << parsed.status();
    valid += parsed.ok();
  }
  EXPECT_GT(valid, 1000);
}

TEST(JsonScannerTest, TellsTheMembers) {
  JsonScanner scanner;
  std::string events;
  for (const char c : std::string(R"({"k": "v", "n": 1, "o": {"x": "y"}, "a": ["z"]})")) {
    switch (scanner.Feed(c)) {
      case JsonScanner::Event::kKeyEnd:
        events += scanner.string() + "=";
        break;
      case JsonScanner::Event::kValueBegin:
        events += c;
        break;
      case JsonScanner::Event::kValueEnd:
        events += ";" + scanner.string() + ";";
        break;
      case JsonScanner::Event::kEnd:
        events += ".";
        break;
      default:
        break;
    }
  }
  EXPECT_EQ(events, "k=\";v;n=1o={;o;a=[;a;.");
}

}  // namespace
}  // namespace qwenserve
