#include "services/common/tracing/trace_context.h"

#include <string>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

constexpr char kGood[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceContextTest, ReadsAndWritesATraceparent) {
  const TraceContext context = ParseTraceparent(kGood);
  ASSERT_TRUE(context.valid());
  EXPECT_EQ(context.trace_high, 0x0af7651916cd43ddu);
  EXPECT_EQ(context.trace_low, 0x8448eb211c80319cu);
  EXPECT_EQ(context.span, 0xb7ad6b7169203331u);
  EXPECT_TRUE(context.sampled);
  EXPECT_EQ(FormatTraceparent(context), kGood);
  EXPECT_EQ(TraceIdText(context), "0af7651916cd43dd8448eb211c80319c");

  TraceContext small;
  small.trace_low = 1;
  small.span = 2;
  EXPECT_EQ(FormatTraceparent(small), "00-00000000000000000000000000000001-0000000000000002-00");
  EXPECT_EQ(TraceIdText(small), "00000000000000000000000000000001");
}

TEST(TraceContextTest, OnlyTheSampledBitOfTheFlagsCounts) {
  std::string text = kGood;
  for (const auto& [flags, sampled] : {std::pair{"00", false},
                                       {"01", true},
                                       {"02", false},
                                       {"03", true},
                                       {"fe", false},
                                       {"ff", true}}) {
    text.replace(53, 2, flags);
    EXPECT_EQ(ParseTraceparent(text).sampled, sampled) << flags;
    EXPECT_TRUE(ParseTraceparent(text).valid()) << flags;
  }
}

TEST(TraceContextTest, LaterVersionsMayBeLonger) {
  const std::string later = "cc" + std::string(kGood).substr(2);
  EXPECT_TRUE(ParseTraceparent(later).valid());
  EXPECT_TRUE(ParseTraceparent(later + "-what-comes").valid());
  EXPECT_FALSE(ParseTraceparent(later + "more").valid());
  EXPECT_FALSE(ParseTraceparent(std::string(kGood) + "-more").valid());
}

TEST(TraceContextTest, WhatIsMalformedIsNone) {
  for (size_t length = 0; length < 55; ++length) {
    EXPECT_FALSE(ParseTraceparent(std::string(kGood).substr(0, length)).valid()) << length;
  }
  for (size_t i = 0; i < 55; ++i) {
    for (char c : {'G', 'A', ' ', '-', '0'}) {
      std::string text = kGood;
      if (text[i] == c || (text[i] != '-' && c == '0')) continue;
      text[i] = c;
      EXPECT_FALSE(ParseTraceparent(text).valid()) << text;
    }
  }
  EXPECT_FALSE(ParseTraceparent("ff" + std::string(kGood).substr(2)).valid());
  EXPECT_FALSE(ParseTraceparent("00-00000000000000000000000000000000-b7ad6b7169203331-01").valid());
  EXPECT_FALSE(ParseTraceparent("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01").valid());
  EXPECT_EQ(TraceIdText(TraceContext()), "");
}

}  // namespace
}  // namespace qwenserve
