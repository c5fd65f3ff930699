#include "engine/tokenizer/nfc.h"

#include <utf8proc.h>

#include <cstdlib>
#include <random>
#include <string>

#include "engine/tokenizer/unicode.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace qwenserve {
namespace {

using ::testing::HasSubstr;

std::string Nfc(const std::string& text) {
  std::string storage;
  const auto normal = ToNfc(text, &storage);
  EXPECT_TRUE(normal.ok()) << normal.status();
  return std::string(*normal);
}

std::string LibraryNfc(const std::string& text) {
  utf8proc_uint8_t* const normal =
      utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str()));
  const std::string result(reinterpret_cast<const char*>(normal));
  std::free(normal);
  return result;
}

TEST(NfcTest, ComposesReordersAndReplacesSingletons) {
  EXPECT_EQ(Nfc("e\u0301"), "\u00e9");
  EXPECT_EQ(Nfc("\u03d2\u0301"), "\u03d3");
  EXPECT_EQ(Nfc("a\u0301\u0323b"), "\u1ea1\u0301b");
  EXPECT_EQ(Nfc("\u212b\u2126"), "\u00c5\u03a9");
  EXPECT_EQ(Nfc("\u0958"), "\u0915\u093c") << "excluded from composition";
  EXPECT_EQ(Nfc("\u1112\u1161\u11ab \uac00\u11a8"), "\ud55c \uac01");
}

TEST(NfcTest, ReturnsTheTextItselfWhenItIsNormal) {
  const std::string text = "plain, 你好, \u00e9\u1ea1, \U0001f600";
  std::string storage;
  const auto normal = ToNfc(text, &storage);
  ASSERT_TRUE(normal.ok());
  EXPECT_EQ(normal->data(), text.data());
  EXPECT_EQ(normal->size(), text.size());
}

TEST(NfcTest, AgreesWithTheLibraryOnRandomText) {
  std::mt19937 random(1);
  const char32_t blocks[][2] = {
      {0x20, 0x7E},     {0xC0, 0x17F},    {0x300, 0x36F},     {0x370, 0x3FF},    {0x591, 0x5F4},
      {0x900, 0xDFF},   {0x1100, 0x11FF}, {0x1E00, 0x1FFF},   {0x2000, 0x22FF},  {0x3040, 0x30FF},
      {0xAC00, 0xAD00}, {0xF900, 0xFB4F}, {0x1D15E, 0x1D1C0}, {0x2F800, 0x2FA1D}};
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    const size_t length = 1 + random() % 12;
    for (size_t i = 0; i < length; ++i) {
      const auto& block = blocks[random() % std::size(blocks)];
      AppendUtf8(block[0] + random() % (block[1] - block[0] + 1), &text);
    }
    ASSERT_EQ(Nfc(text), LibraryNfc(text)) << testing::PrintToString(text);
  }
}

// Ordering by exchange of neighbours takes minutes for this.
TEST(NfcTest, OrdersAMillionBytesOfMarks) {
  std::string text = "q";
  std::string below, above;
  for (int i = 0; i < 250000; ++i) {
    text += "\u0301\u0323";
    above += "\u0301";
    below += "\u0323";
  }
  EXPECT_EQ(Nfc(text), "q" + below + above);
}

TEST(NfcTest, NamesTheByteOfInvalidUtf8) {
  const auto error = [](const std::string& text) {
    std::string storage;
    const auto status = ToNfc(text, &storage).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(error("abcdefghij\xff"), HasSubstr("byte 10"));
  EXPECT_THAT(error("e\u0301\xc3"), HasSubstr("byte 3"));
  EXPECT_THAT(error("\xed\xa0\x80"), HasSubstr("byte 0")) << "a surrogate";
  EXPECT_THAT(error("a\xc0\x80"), HasSubstr("byte 1")) << "an overlong form";
  EXPECT_THAT(error("ab\xf4\x90\x80\x80"), HasSubstr("byte 2")) << "above U+10FFFF";
}

}  // namespace
}  // namespace qwenserve
