#include <fstream>
#include <regex>
#include <string>

#include "gtest/gtest.h"

namespace {

// The forward pass is the same for every device, weight format, degree of tensor parallelism and
// phase; a word for one of them in its source means that one has leaked in.
TEST(QwenSourceTest, NamesNoDeviceFormatRankOrPhase) {
  std::ifstream source("engine/model/qwen.cc");  // tests run in the repository's root
  ASSERT_TRUE(source.is_open());
  const std::regex leak("cuda|int4|int8|rank|prefill", std::regex::icase);
  std::string line;
  int lines = 0;
  while (std::getline(source, line)) {
    ++lines;
    EXPECT_FALSE(std::regex_search(line, leak)) << "line " << lines << ": " << line;
  }
  EXPECT_GT(lines, 20);
  EXPECT_LT(lines, 150);
}

}  // namespace
