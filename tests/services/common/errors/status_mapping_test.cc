#include "services/common/errors/status_mapping.h"

#include <string>

#include "google/rpc/error_details.pb.h"
#include "gtest/gtest.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

template <typename Detail>
int CountDetails(const google::rpc::Status& status, Detail* last) {
  int count = 0;
  for (const auto& any : status.details()) count += any.UnpackTo(last);
  return count;
}

TEST(StatusMappingTest, OkStaysOk) {
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_TRUE(FromGrpcStatus(grpc::Status::OK).ok());
}

TEST(StatusMappingTest, EveryCodeSurvives) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "why");
    const grpc::Status wire = ToGrpcStatus(status);
    EXPECT_EQ(static_cast<int>(wire.error_code()), code);
    const absl::Status back = FromGrpcStatus(wire);
    EXPECT_EQ(back.code(), status.code());
    EXPECT_EQ(back.message(), "why");
    EXPECT_EQ(ErrorReason(back), absl::StatusCodeToString(status.code()));
  }
}

TEST(StatusMappingTest, DetailsAreTheStandardOnes) {
  absl::Status status = InvalidField("options.sampling.top_p", "1.5 is not in (0, 1]");
  status = WithMetadata(status, "limit", "1");
  status = WithRetryAfter(status, absl::Milliseconds(2500));
  google::rpc::Status proto;
  ASSERT_TRUE(proto.ParseFromString(ToGrpcStatus(status).error_details()));
  EXPECT_EQ(proto.code(), 3);
  EXPECT_EQ(proto.message(), "options.sampling.top_p: 1.5 is not in (0, 1]");
  google::rpc::ErrorInfo info;
  ASSERT_EQ(CountDetails(proto, &info), 1);
  EXPECT_EQ(info.reason(), "INVALID_FIELD");
  EXPECT_EQ(info.domain(), "qwenserve");
  EXPECT_EQ(info.metadata().at("limit"), "1");
  google::rpc::BadRequest bad_request;
  ASSERT_EQ(CountDetails(proto, &bad_request), 1);
  EXPECT_EQ(bad_request.field_violations(0).field(), "options.sampling.top_p");
  google::rpc::RetryInfo retry;
  ASSERT_EQ(CountDetails(proto, &retry), 1);
  EXPECT_EQ(retry.retry_delay().seconds(), 2);
  EXPECT_EQ(retry.retry_delay().nanos(), 500'000'000);
}

TEST(StatusMappingTest, DetailsComeBack) {
  const absl::Status status = WithMetadata(
      WithReason(absl::UnavailableError("lost"), kReasonWorkerLost), "tokens_sent", "17");
  const absl::Status back = FromGrpcStatus(ToGrpcStatus(status));
  EXPECT_EQ(ErrorReason(back), kReasonWorkerLost);
  EXPECT_EQ(ErrorMetadata(back, "tokens_sent"), "17");
  EXPECT_EQ(ErrorField(FromGrpcStatus(ToGrpcStatus(InvalidField("model", "?")))), "model");
}

TEST(StatusMappingTest, SeveralFieldsAreKept) {
  absl::Status status = InvalidField("a", "bad");
  status = WithField(status, "b", "bad too");
  google::rpc::BadRequest bad_request;
  ASSERT_EQ(CountDetails(ToProtoStatus(status), &bad_request), 1);
  EXPECT_EQ(bad_request.field_violations_size(), 2);
}

TEST(StatusMappingTest, StaysSmallAndKeepsTheReason) {
  // Three bytes a character: the cut must not leave half of one.
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "\xE4\xB8\xAD";
  absl::Status status = WithReason(absl::InvalidArgumentError(text), kReasonInvalidField);
  status = WithField(status, "prompt", text);
  const grpc::Status wire = ToGrpcStatus(status);
  EXPECT_LT(3 * wire.error_message().size() + wire.error_details().size(), 4096u);
  EXPECT_EQ(wire.error_message().size() % 3, 0u);
  EXPECT_GT(wire.error_message().size(), 500u);
  EXPECT_EQ(ErrorReason(FromGrpcStatus(wire)), kReasonInvalidField);
}

TEST(StatusMappingTest, ForeignBytesDoNoHarm) {
  const absl::Status garbage =
      FromGrpcStatus(grpc::Status(grpc::StatusCode::INTERNAL, "m", "\xFF\xFFnot a proto"));
  EXPECT_EQ(garbage.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(ErrorReason(garbage), "");
  google::rpc::Status proto;
  proto.set_code(4711);
  EXPECT_EQ(FromProtoStatus(proto).code(), absl::StatusCode::kUnknown);
}

}  // namespace
}  // namespace qwenserve
