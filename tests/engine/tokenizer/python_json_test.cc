#include "engine/tokenizer/python_json.h"

#include <string>

#include "gtest/gtest.h"

namespace qwenserve {
namespace {

std::string Respell(const std::string& text) {
  const auto json = ParseJson(text, "test");
  EXPECT_TRUE(json.ok()) << json.status();
  return ToPythonJson(*json);
}

// Expectations are the output of json.dumps(json.loads(text), ensure_ascii=False).
TEST(PythonJsonTest, SpacingAndOrder) {
  EXPECT_EQ(Respell(R"({"b":[1,2,{"a":null}],"a":{},"c":[],"t":true})"),
            R"({"b": [1, 2, {"a": null}], "a": {}, "c": [], "t": true})");
}

TEST(PythonJsonTest, Strings) {
  EXPECT_EQ(Respell(R"(["\u00e9\u4f60\/<>&'","\"\\\b\f\n\r\t\u0001\u001f","\u007f\u2028"])"),
            "[\"é你/<>&'\", \"\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\", \"\u007f\u2028\"]");
}

TEST(PythonJsonTest, Numbers) {
  EXPECT_EQ(Respell("[0, -7, 9223372036854775807, 18446744073709551615]"),
            "[0, -7, 9223372036854775807, 18446744073709551615]");
  EXPECT_EQ(Respell("[1.0, -0.0, 0.1, 1e5, 1.5e15, 1e16, 1E22, 123456789.25]"),
            "[1.0, -0.0, 0.1, 100000.0, 1500000000000000.0, 1e+16, 1e+22, 123456789.25]");
  EXPECT_EQ(Respell("[0.0001, 0.00001, -1.25e-7, 5e-324, 1.7976931348623157e308, 1e-100]"),
            "[0.0001, 1e-05, -1.25e-07, 5e-324, 1.7976931348623157e+308, 1e-100]");
}

}  // namespace
}  // namespace qwenserve
