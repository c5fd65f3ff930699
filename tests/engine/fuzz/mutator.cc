#include "tests/engine/fuzz/mutator.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "gtest/gtest.h"

namespace qwenserve {

std::string Mutator::Mutate(std::string bytes, const std::vector<std::string>& words) {
  for (size_t i = 1 + Pick(4); i > 0; --i) ChangeOnce(words, &bytes);
  return bytes;
}

void Mutator::ChangeOnce(const std::vector<std::string>& words, std::string* bytes) {
  const size_t at = Pick(bytes->size() + 1);
  const size_t length = std::min(bytes->size() - at, 1 + Pick(Pick(2) == 0 ? 4 : 64));
  switch (Pick(words.empty() ? 5 : 7)) {
    case 0:
      if (at < bytes->size()) (*bytes)[at] = static_cast<char>((*bytes)[at] ^ (1 << Pick(8)));
      return;
    case 1:
      if (at < bytes->size()) (*bytes)[at] = static_cast<char>(Pick(256));
      return;
    case 2:
      bytes->erase(at, length);
      return;
    case 3:
      bytes->insert(Pick(bytes->size() + 1), bytes->substr(at, length));
      return;
    case 4:
      if (Pick(8) == 0) bytes->resize(at);
      return;
    case 5:
      bytes->insert(at, words[Pick(words.size())]);
      return;
    default:
      ReplaceNumber(words[Pick(words.size())], bytes);
  }
}

void Mutator::ReplaceNumber(const std::string& word, std::string* bytes) {
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto start = bytes->begin() + static_cast<std::ptrdiff_t>(Pick(bytes->size() + 1));
  const auto first = std::find_if(start, bytes->end(), is_digit);
  const auto last = std::find_if_not(first, bytes->end(), is_digit);
  bytes->replace(first, last, word);
}

const std::vector<std::string>& JsonWords() {
  static const auto& kWords = *new std::vector<std::string>{"0",
                                                            "-1",
                                                            "1",
                                                            "2",
                                                            "3",
                                                            "255",
                                                            "65536",
                                                            "2147483647",
                                                            "2147483648",
                                                            "4294967296",
                                                            "9223372036854775807",
                                                            "9223372036854775808",
                                                            "18446744073709551615",
                                                            "18446744073709551616",
                                                            "-9223372036854775808",
                                                            "-9223372036854775809",
                                                            "0.5",
                                                            "1e-320",
                                                            "1e308",
                                                            "1e999",
                                                            "-0.0",
                                                            "null",
                                                            "true",
                                                            "false",
                                                            "\"\"",
                                                            "\"x\"",
                                                            "\"\\u0000\"",
                                                            "\"\\ud800\"",
                                                            "\"\\n\"",
                                                            "[]",
                                                            "{}",
                                                            "[1]",
                                                            "{\"a\":1}",
                                                            "\"../x\"",
                                                            "\"a/b\"",
                                                            ",",
                                                            ":",
                                                            "[",
                                                            "]",
                                                            "{",
                                                            "}",
                                                            "\"",
                                                            "\\",
                                                            std::string(70, '['),
                                                            std::string(3000, '7'),
                                                            "\xff",
                                                            "\xe4\xbd\xa0"};
  return kWords;
}

void ForEachSeed(int rounds, const std::function<void(uint32_t seed)>& round) {
  int factor = 1;
  if (const char* wanted = std::getenv("QWENSERVE_FUZZ_FACTOR"); wanted != nullptr) {
    ASSERT_TRUE(absl::SimpleAtoi(wanted, &factor) && factor > 0) << wanted;
  }
  std::printf("seeds 1 to %d\n", rounds * factor);
  for (uint32_t seed = 1; seed <= static_cast<uint32_t>(rounds * factor); ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    round(seed);
    if (testing::Test::HasFailure()) return;
  }
}

void ExpectCleanError(const absl::Status& status) {
  EXPECT_TRUE(status.code() == absl::StatusCode::kInvalidArgument ||
              status.code() == absl::StatusCode::kUnimplemented ||
              status.code() == absl::StatusCode::kNotFound)
      << status;
  EXPECT_LT(status.message().size(), 1000u) << status;
  for (const char c : status.message()) {
    ASSERT_GE(static_cast<unsigned char>(c), 0x20) << status;
  }
}

}  // namespace qwenserve
