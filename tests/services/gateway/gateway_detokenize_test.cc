#include <string>

#include "gtest/gtest.h"
#include "tests/services/gateway/gateway_harness.h"

namespace qwenserve {
namespace {

absl::Status CallDetokenize(v1::Inference::Stub& stub, const v1::DetokenizeTextRequest& request,
                            std::string* text) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  v1::DetokenizeTextResponse response;
  const grpc::Status status = stub.Detokenize(&context, request, &response);
  *text = response.text();
  return FromGrpcStatus(status);
}

TEST_F(GatewayTest, DetokenizeNamesAnIdOutsideTheVocabulary) {
  Start();
  v1::DetokenizeTextRequest request;
  for (uint32_t id : {'o', 'k'}) request.add_token_ids(id);
  std::string text;
  ASSERT_TRUE(CallDetokenize(stub(), request, &text).ok());
  EXPECT_EQ(text, "ok");
  request.add_token_ids(256);
  const absl::Status status = CallDetokenize(stub(), request, &text);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorField(status), "token_ids[2]");
}

TEST_F(GatewayTest, DetokenizedTextIsBounded) {
  Start({}, {},
        [](GatewayOptions& options) { options.request_limits.max_detokenized_bytes = 1000; });
  v1::DetokenizeTextRequest request;
  for (int i = 0; i < 1000; ++i) request.add_token_ids('x');
  std::string text;
  ASSERT_TRUE(CallDetokenize(stub(), request, &text).ok());
  EXPECT_EQ(text.size(), 1000u);
  request.add_token_ids('x');
  const absl::Status status = CallDetokenize(stub(), request, &text);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorField(status), "token_ids");
}

}  // namespace
}  // namespace qwenserve
