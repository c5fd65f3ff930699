#include "engine/base/json_reader.h"

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

TEST(JsonReaderTest, FileErrorsNameThePath) {
  EXPECT_EQ(ReadJsonFile("/nonexistent.json").status().code(), absl::StatusCode::kNotFound);
  const std::string path = ::testing::TempDir() + "/big.json";
  std::ofstream(path) << "[1, 2, 3]";
  EXPECT_TRUE(ReadJsonFile(path).ok());
  EXPECT_EQ(ReadJsonFile(path, 4).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace qwenserve
