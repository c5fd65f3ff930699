#include "engine/base/json_reader.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

TEST(JsonReaderTest, KeepsTheOrderOfKeys) {
  auto json = ParseJson(R"({"z": 1, "a": [true, null, "x", -2, 1.5]})", "test");
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_EQ(json->dump(), R"({"z":1,"a":[true,null,"x",-2,1.5]})");
}

TEST(JsonReaderTest, RefusesAKeyGivenTwice) {
  auto json = ParseJson(R"({"a": 1, "b": {"a": 2}, "a": 3})", "config.json");
  EXPECT_EQ(json.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(json.status().message(), HasSubstr("config.json"));
  EXPECT_THAT(json.status().message(), HasSubstr("\"a\" twice"));
}

TEST(JsonReaderTest, AllowsDepth64AndRefuses65) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(ParseJson(nested(64), "x").ok());
  EXPECT_THAT(ParseJson(nested(65), "x").status().message(), HasSubstr("deeper than 64"));
  EXPECT_FALSE(ParseJson(nested(1000000), "x").ok());
}

TEST(JsonReaderTest, RefusesMalformedText) {
  for (const char* text : {"", "{", "[1,]", "{\"a\" 1}", "nul", "\"\xff\"", "1 2", "\"\\ud800\""}) {
    auto json = ParseJson(text, "field");
    EXPECT_EQ(json.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(json.status().message(), HasSubstr("field")) << text;
  }
}

TEST(JsonReaderTest, AZeroByteDoesNotEndTheText) {
  const auto json = ParseJson(absl::string_view("{} \0 anything", 13), "field");
  EXPECT_THAT(json.status().message(), HasSubstr("byte 3"));
}

TEST(JsonReaderTest, FileErrorsNameThePath) {
  EXPECT_EQ(ReadJsonFile("/nonexistent.json").status().code(), absl::StatusCode::kNotFound);
  const std::string path = ::testing::TempDir() + "/big.json";
  std::ofstream(path) << "[1, 2, 3]";
  EXPECT_TRUE(ReadJsonFile(path).ok());
  EXPECT_EQ(ReadJsonFile(path, 4).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(JsonReaderTest, ErrorsAreOneShortLine) {
  const std::string long_text(1 << 20, 'x');
  for (const std::string& text :
       {"{\"" + long_text + "\": 1, \"" + long_text + "\": 2}", "[\"" + long_text + "\n",
        std::string(R"({"a\nb": 1, "a\nb": 2})")}) {
    const auto status = ParseJson(text, "x").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_LT(status.message().size(), 300u);
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos) << status;
  }
}

TEST(JsonReaderTest, ShowsValuesAndTextShortly) {
  EXPECT_EQ(ShownJson(Json("a\n\u4f60")), R"("a\n\u4f60")");
  EXPECT_EQ(ShownJson(Json(std::string(1000, 'x'))).size(), 123u);
  EXPECT_EQ(ShownText("a\n\u4f60"), "a\\n\u4f60");
  std::string wide;
  for (int i = 0; i < 100; ++i) wide += "\u4f60";
  EXPECT_EQ(ShownText(wide), wide.substr(0, 120) + "...");
  EXPECT_EQ(ShownText("x" + wide), "x" + wide.substr(0, 117) + "...");  // no half character
}

TEST(JsonReaderTest, APipeIsNotWaitedFor) {
  const std::string path = ::testing::TempDir() + "/json_pipe_" + std::to_string(getpid());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(ReadJsonFile(path).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReadJsonFile(::testing::TempDir()).status().code(), absl::StatusCode::kInvalidArgument);
  unlink(path.c_str());
}

}  // namespace
}  // namespace qwenserve
