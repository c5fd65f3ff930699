#include <cmath>
#include <string>

#include "engine/sample/sampling_params.h"
#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"
#include "services/gateway/call/request_validation.h"

namespace qwenserve {
namespace {

// The edge must refuse what the engine would: it knows the client's name for the field.
TEST(SamplingRangesTest, TheEdgesAreTheEngines) {
  const float values[] = {-3, -2,   -1, -0.001f, 0,   1e-9f, 0.0005f, 0.001f,   0.01f, 0.5f,
                          1,  1.5f, 2,  2.1f,    100, 101,   1e4f,    INFINITY, NAN};
  for (const float value : values) {
    const auto same = [&](const char* field, auto set_wire, auto set_engine) {
      v1::CompleteRequest request;
      request.set_text("x");
      set_wire(request.mutable_options()->mutable_sampling());
      SamplingParams params;
      params.max_tokens = 1;
      set_engine(&params);
      const absl::Status edge = ValidateComplete(request, RequestLimits()).status();
      EXPECT_EQ(edge.ok(), Validate(params, 100).ok()) << field << " " << value;
      const std::string path = std::string("options.sampling.") + field;
      EXPECT_EQ(ErrorField(edge), edge.ok() ? "" : path);
    };
    same(
        "temperature", [&](v1::SamplingParams* p) { p->set_temperature(value); },
        [&](SamplingParams* p) { p->temperature = value; });
    same(
        "top_p", [&](v1::SamplingParams* p) { p->set_top_p(value); },
        [&](SamplingParams* p) { p->top_p = value; });
    same(
        "min_p", [&](v1::SamplingParams* p) { p->set_min_p(value); },
        [&](SamplingParams* p) { p->min_p = value; });
    same(
        "repetition_penalty", [&](v1::SamplingParams* p) { p->set_repetition_penalty(value); },
        [&](SamplingParams* p) { p->repetition_penalty = value; });
    same(
        "presence_penalty", [&](v1::SamplingParams* p) { p->set_presence_penalty(value); },
        [&](SamplingParams* p) { p->presence_penalty = value; });
    same(
        "logit_bias[7]", [&](v1::SamplingParams* p) { (*p->mutable_logit_bias())[7] = value; },
        [&](SamplingParams* p) {
          p->logit_bias = {{7, value}};
        });
    same(
        "frequency_penalty", [&](v1::SamplingParams* p) { p->set_frequency_penalty(value); },
        [&](SamplingParams* p) { p->frequency_penalty = value; });
  }
}

TEST(SamplingRangesTest, TheNumbersAreTheEngines) {
  EXPECT_EQ(RequestLimits().max_top_logprobs, kMaxTopLogprobs);
  EXPECT_EQ(RequestLimits().max_logit_bias, kMaxLogitBias);
}

}  // namespace
}  // namespace qwenserve
