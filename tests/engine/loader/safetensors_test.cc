#include "engine/loader/safetensors.h"

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/loader/checkpoint_writer.h"

namespace qwenserve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::StatusOr<std::vector<SafetensorsEntry>> Parse(const std::string& bytes) {
  return ParseSafetensors({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()},
                          "model.safetensors");
}

TEST(SafetensorsTest, ReadsEntriesInTheOrderOfTheirData) {
  const std::string header =
      R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
      R"("__metadata__":{"format":"pt"},"empty":{"dtype":"F32","shape":[0,7],)"
      R"("data_offsets":[4,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})";
  auto entries =
      Parse(SafetensorsBytes(header + std::string(-header.size() % 8, ' '), std::string(16, 'x')));
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ((*entries)[0].name, "a");
  EXPECT_EQ((*entries)[1].name, "empty");
  EXPECT_EQ((*entries)[2].name, "b");
  EXPECT_EQ((*entries)[2].dtype, "BF16");
  EXPECT_THAT((*entries)[2].shape, ElementsAre(2, 3));
  EXPECT_EQ((*entries)[2].bytes, 12);
  EXPECT_EQ((*entries)[2].offset - (*entries)[0].offset, 4);
}

// Headers that are wrong in one way each, over 16 bytes of data.
TEST(SafetensorsTest, RefusesEveryMalformedHeaderWithItsNumbers) {
  const auto one = [](const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
    return absl::StrCat(R"({"w":{"dtype":)", dtype, R"(,"shape":)", shape, R"(,"data_offsets":)",
                        offsets, "}}");
  };
  const struct {
    const char* what;
    std::string header;
    std::vector<std::string> words;
  } kCases[] = {
      {"no JSON", "x", {"bad JSON"}},
      {"not an object", "[]", {"not a JSON object"}},
      {"a name twice",
       R"({"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
       R"("w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})",
       {"\"w\" twice"}},
      {"entry not an object", R"({"w":[1]})", {"\"w\"", "not an object"}},
      {"metadata not an object", R"({"__metadata__":1})", {"__metadata__"}},
      {"no dtype", R"({"w":{"shape":[4],"data_offsets":[0,16]}})", {"\"w\"", "dtype"}},
      {"unknown dtype", one("\"F4\"", "[4]", "[0,16]"), {"\"w\"", "F4"}},
      {"no shape", R"({"w":{"dtype":"F32","data_offsets":[0,16]}})", {"\"w\"", "shape"}},
      {"negative size", one("\"F32\"", "[-4]", "[0,16]"), {"\"w\"", "-4"}},
      {"fraction", one("\"F32\"", "[4.5]", "[0,16]"), {"\"w\"", "4.5"}},
      {"size above 63 bits",
       one("\"F32\"", "[18446744073709551615]", "[0,16]"),
       {"18446744073709551615"}},
      // The product of these sizes wraps to 4 in 64 bits.
      {"shape that overflows to 4 elements",
       one("\"F32\"", "[4611686018427387905,4]", "[0,16]"),
       {"\"w\"", "4611686018427387905", "overflows"}},
      {"shape that overflows to 0",
       one("\"F32\"", "[4294967296,4294967296]", "[0,0]"),
       {"overflows"}},
      {"too many dimensions", one("\"F32\"", "[1,1,1,1,1,1,1,1,4]", "[0,16]"), {"9"}},
      {"shape smaller than data", one("\"F32\"", "[3]", "[0,16]"), {"[3]", "16", "12"}},
      {"shape larger than data", one("\"F32\"", "[5]", "[0,16]"), {"[5]", "16", "20"}},
      {"offsets reversed", one("\"F32\"", "[4]", "[16,0]"), {"[16, 0]"}},
      {"one offset", one("\"F32\"", "[4]", "[16]"), {"[16]"}},
      {"negative offset", one("\"F32\"", "[4]", "[-16,0]"), {"-16"}},
      {"end outside the file", one("\"F32\"", "[5]", "[0,20]"), {"20", "16", "truncated"}},
      {"offset far outside",
       one("\"F32\"", "[4]", "[9223372036854775791,9223372036854775807]"),
       {"9223372036854775807"}},
      {"hole at the start", one("\"F32\"", "[2]", "[8,16]"), {"\"w\"", "hole of 8 bytes"}},
      {"bytes after the last", one("\"F32\"", "[2]", "[0,8]"), {"8 bytes after", "\"w\""}},
      {"overlap",
       R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},)"
       R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
       {"\"b\"", "\"a\"", "overlaps"}},
      {"the same bytes twice",
       R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
       R"("b":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})",
       {"\"b\"", "\"a\"", "overlaps"}},
      {"hole between",
       R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})",
       {"\"b\"", "\"a\"", "hole of 4 bytes"}},
      {"misaligned",
       R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
       R"("b":{"dtype":"F32","shape":[3],"data_offsets":[2,14]},)"
       R"("c":{"dtype":"U8","shape":[2],"data_offsets":[14,16]}})",
       {"\"b\"", "aligned"}},
      {"no tensors", "{}", {"16 bytes", "the header"}},
      {"a line break in a name",
       R"({"a\nb":{"dtype":"F4","shape":[4],"data_offsets":[0,16]}})",
       {"a\\nb"}},
  };
  for (const auto& test : kCases) {
    SCOPED_TRACE(test.what);
    std::string header = test.header;
    header.append((8 - header.size() % 8) % 8, ' ');
    const absl::Status status = Parse(SafetensorsBytes(header, std::string(16, '\0'))).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(status.message(), HasSubstr("model.safetensors"));
    EXPECT_EQ(status.message().find('\n'), absl::string_view::npos);
    for (const std::string& word : test.words) EXPECT_THAT(status.message(), HasSubstr(word));
  }
}

TEST(SafetensorsTest, RefusesHeaderLengthsBeyondTheFileOrTheLimit) {
  const std::string good = SafetensorsBytes({{"w", "F32", {4}, std::string(16, '\0')}});
  ASSERT_TRUE(Parse(good).ok());
  for (const size_t size : {0, 7}) {
    EXPECT_THAT(Parse(good.substr(0, size)).status().message(), HasSubstr("too few"));
  }
  std::string bytes = good;
  bytes[7] = '\x7f';
  EXPECT_THAT(Parse(bytes).status().message(), HasSubstr("more than the 100000000 allowed"));
  bytes = good;
  bytes[1] = '\x7f';
  EXPECT_THAT(Parse(bytes).status().message(), HasSubstr("truncated"));
}

// Wherever a file is cut, it is refused: no prefix of a checkpoint passes for a whole one.
TEST(SafetensorsTest, RefusesEveryTruncation) {
  const std::string good = SafetensorsBytes(
      {{"a", "BF16", {2, 2}, std::string(8, 'a')}, {"b", "F32", {3}, std::string(12, 'b')}});
  ASSERT_TRUE(Parse(good).ok());
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_EQ(Parse(good.substr(0, size)).status().code(), absl::StatusCode::kInvalidArgument)
        << size;
  }
  EXPECT_FALSE(Parse(good + "x").ok());
}

// Single changed bytes never crash; run under AddressSanitizer this also proves that no byte
// outside the file is read.
TEST(SafetensorsTest, SurvivesEveryChangedByte) {
  const std::string good = SafetensorsBytes(
      {{"a", "BF16", {2, 2}, std::string(8, 'a')}, {"b", "F32", {3}, std::string(12, 'b')}});
  for (size_t i = 0; i < good.size() - 20; ++i) {
    for (const char byte : {'\0', '9', '"', '}', '-', '\xff'}) {
      std::string bytes = good;
      bytes[i] = byte;
      auto entries = Parse(bytes);
      if (!entries.ok()) continue;
      for (const SafetensorsEntry& entry : *entries) {
        EXPECT_GE(entry.offset, 8);
        EXPECT_LE(entry.offset + entry.bytes, static_cast<int64_t>(bytes.size()));
      }
    }
  }
}

}  // namespace
}  // namespace qwenserve
