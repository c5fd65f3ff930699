#include <string>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "tests/services/gateway/gateway_harness.h"

namespace qwenserve {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

template <typename Call, typename Request, typename Response>
absl::Status Unary(Call call, v1::Inference::Stub& stub, const Request& request,
                   Response* response) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  return FromGrpcStatus((stub.*call)(&context, request, response));
}

TEST_F(GatewayTest, UnknownModelIsNotFound) {
  StartEcho();
  v1::ChatRequest request = UserSays("hello");
  request.set_model("other");
  v1::ChatResponse response;
  const absl::Status status = CallChat(stub(), request, &response);
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonModelNotFound);
  google::rpc::ResourceInfo info;
  const auto payload = status.GetPayload("type.googleapis.com/google.rpc.ResourceInfo");
  ASSERT_TRUE(payload.has_value());
  ASSERT_TRUE(info.ParseFromString(std::string(*payload)));
  EXPECT_EQ(info.resource_name(), "other");
  request.set_model("fake");
  EXPECT_TRUE(CallChat(stub(), request, &response).ok());
}

TEST(GatewayModelsTest, SeveralModels) {
  FakeTokenizer::Options other_tokenizer;
  other_tokenizer.model = "other";
  other_tokenizer.hash = "hash-2";
  FakeGenerator::Options other_generator;
  other_generator.hello.set_model("other");
  other_generator.hello.set_tokenizer_hash("hash-2");
  other_generator.echo = true;
  FakeGenerator::Options echo;
  echo.echo = true;
  FakeTokenizer tokenizer_a;
  FakeTokenizer tokenizer_b(other_tokenizer);
  FakeGenerator generator_a(echo);
  FakeGenerator generator_b(other_generator);
  GatewayHarness harness(OptionsFor({tokenizer_a.address(), tokenizer_b.address()},
                                    {generator_a.address(), generator_b.address()}));
  ASSERT_TRUE(Eventually([&] {
    const auto catalog = harness.gateway().catalog();
    return catalog->Resolve("fake").ok() && catalog->Resolve("other").ok();
  }));
  v1::ChatRequest request = UserSays("hello");
  v1::ChatResponse response;
  const absl::Status status = CallChat(harness.stub(), request, &response);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(ErrorField(status), "model");
  for (const std::string model : {"fake", "other"}) {
    request.set_model(model);
    ASSERT_TRUE(CallChat(harness.stub(), request, &response).ok());
    EXPECT_EQ(response.started().model(), model);
  }
  EXPECT_EQ(generator_a.num_submits(), 1u);
  EXPECT_EQ(generator_b.num_submits(), 1u);
  v1::ListModelsResponse models;
  ASSERT_TRUE(
      Unary(&v1::Inference::Stub::ListModels, harness.stub(), v1::ListModelsRequest(), &models)
          .ok());
  ASSERT_EQ(models.models_size(), 2);
  EXPECT_EQ(models.models(0).id(), "fake");
  EXPECT_EQ(models.models(1).id(), "other");
}

TEST_F(GatewayTest, GetModelTellsWhatTheWorkersSay) {
  FakeGenerator::Options generator;
  generator.hello.mutable_default_sampling()->set_top_k(20);
  Start(generator);
  v1::GetModelResponse response;
  v1::GetModelRequest request;
  ASSERT_TRUE(Unary(&v1::Inference::Stub::GetModel, stub(), request, &response).ok());
  const v1::Model& model = response.model();
  EXPECT_EQ(model.id(), "fake");
  EXPECT_EQ(model.family(), "qwen2");
  EXPECT_EQ(model.max_model_len(), 4096u);
  EXPECT_TRUE(model.chat_supported());
  EXPECT_EQ(model.chat_template(), "fake-template");
  EXPECT_EQ(model.tokenizer_hash(), "hash-1");
  EXPECT_THAT(model.fingerprints(), ElementsAre("fingerprint-1"));
  EXPECT_EQ(model.ready_replicas(), 1u);
  EXPECT_EQ(model.default_sampling().top_k(), 20u);
  EXPECT_EQ(model.vocab_size(), 256u);
  request.set_model("other");
  EXPECT_TRUE(absl::IsNotFound(Unary(&v1::Inference::Stub::GetModel, stub(), request, &response)));
  // An answer that repeated all of it would not fit into its trailers.
  request.set_model(std::string(100000, 'm'));
  EXPECT_TRUE(absl::IsNotFound(Unary(&v1::Inference::Stub::GetModel, stub(), request, &response)));
}

TEST_F(GatewayTest, TooLongRequestsNameTheNumbers) {
  FakeGenerator::Options generator;
  generator.hello.mutable_limits()->set_max_model_len(20);
  generator.echo = true;
  Start(generator);
  v1::CompleteRequest request = Prompt("0123456789");
  request.mutable_options()->set_max_tokens(11);
  v1::CompleteResponse response;
  absl::Status status = CallComplete(stub(), request, &response);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonContextLength);
  EXPECT_EQ(ErrorField(status), "options.max_tokens");
  for (const char* number : {"10", "11", "21", "20"}) {
    EXPECT_THAT(std::string(status.message()), HasSubstr(number));
  }
  request.mutable_options()->set_max_tokens(10);
  EXPECT_TRUE(CallComplete(stub(), request, &response).ok());
  request = Prompt("0123456789012345678");
  EXPECT_TRUE(CallComplete(stub(), request, &response).ok());
  EXPECT_EQ(generator_->WaitSubmit(1).max_tokens(), 1u);
  request = Prompt("01234567890123456789");
  status = CallComplete(stub(), request, &response);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonContextLength);
  EXPECT_EQ(generator_->num_submits(), 2u);
}

TEST_F(GatewayTest, BadFieldsAreNamed) {
  StartEcho();
  v1::ChatRequest request = UserSays("hello");
  request.mutable_options()->mutable_sampling()->set_top_p(3);
  ChatStream stream(stub(), request);
  v1::StreamChatResponse message;
  EXPECT_FALSE(stream.Read(&message));
  const absl::Status status = stream.Finish();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(ErrorField(status), "options.sampling.top_p");
  EXPECT_EQ(tokenizer_->num_prepared(), 0);
  EXPECT_THAT(
      harness_->Scrape(),
      HasSubstr(
          "qwenserve_gateway_requests_total{code=\"INVALID_ARGUMENT\",method=\"StreamChat\"} 1"));
}

TEST_F(GatewayTest, FieldsThatTheTokenizerNamesHaveTheClientsPath) {
  StartEcho();
  tokenizer_->FailPrepare(ToGrpcStatus(InvalidField("messages[0].content", "is odd")));
  v1::ChatResponse response;
  absl::Status status = CallChat(stub(), UserSays("hello"), &response);
  EXPECT_EQ(ErrorField(status), "input.messages[0].content");
  v1::TokenizeRequest request;
  *request.mutable_chat() = UserSays("hello").input();
  v1::TokenizeResponse ids;
  status = Unary(&v1::Inference::Stub::Tokenize, stub(), request, &ids);
  EXPECT_EQ(ErrorField(status), "chat.messages[0].content");
}

TEST_F(GatewayTest, ErrorsOfTheLinkDoNotReachTheClient) {
  StartEcho();
  tokenizer_->FailPrepare(grpc::Status(grpc::StatusCode::UNKNOWN, "at 10.0.0.1:50061"));
  v1::ChatResponse response;
  const absl::Status status = CallChat(stub(), UserSays("hello"), &response);
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::Not(HasSubstr("10.0.0.1")));
}

TEST_F(GatewayTest, TokenizeAndDetokenize) {
  StartEcho();
  v1::TokenizeRequest tokenize;
  tokenize.set_text("abc");
  tokenize.set_with_pieces(true);
  v1::TokenizeResponse ids;
  ASSERT_TRUE(Unary(&v1::Inference::Stub::Tokenize, stub(), tokenize, &ids).ok());
  EXPECT_THAT(ids.token_ids(), ElementsAre('a', 'b', 'c'));
  EXPECT_THAT(ids.pieces(), ElementsAre("a", "b", "c"));
  EXPECT_EQ(ids.max_model_len(), 4096u);
  EXPECT_EQ(ErrorField(Unary(&v1::Inference::Stub::Tokenize, stub(), v1::TokenizeRequest(), &ids)),
            "input");

  // More than one item, cut in the middle of a character.
  std::string text = "x";
  for (int i = 0; i < 300; ++i) text += "\xE4\xBD\xA0";
  v1::DetokenizeTextRequest detokenize;
  for (unsigned char byte : text) detokenize.add_token_ids(byte);
  v1::DetokenizeTextResponse response;
  ASSERT_TRUE(Unary(&v1::Inference::Stub::Detokenize, stub(), detokenize, &response).ok());
  EXPECT_EQ(response.text(), text);
  detokenize.clear_token_ids();
  ASSERT_TRUE(Unary(&v1::Inference::Stub::Detokenize, stub(), detokenize, &response).ok());
  EXPECT_EQ(response.text(), "");
  detokenize.add_token_ids(1000);
  EXPECT_TRUE(absl::IsInvalidArgument(
      Unary(&v1::Inference::Stub::Detokenize, stub(), detokenize, &response)));
}

TEST(GatewayModelsTest, BeforeAnyWorker) {
  GatewayHarness harness(OptionsFor({"127.0.0.1:1"}, {"127.0.0.1:1"}));
  v1::ChatResponse response;
  const absl::Status status = CallChat(harness.stub(), UserSays("hello"), &response);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), kReasonNoWorker);
  EXPECT_TRUE(status.GetPayload("type.googleapis.com/google.rpc.RetryInfo").has_value());
  v1::ListModelsResponse models;
  ASSERT_TRUE(
      Unary(&v1::Inference::Stub::ListModels, harness.stub(), v1::ListModelsRequest(), &models)
          .ok());
  EXPECT_EQ(models.models_size(), 0);
}

TEST_F(GatewayTest, RequestsAreListedWithoutContent) {
  Start();
  v1::ChatRequest request = UserSays("a secret");
  request.set_request_id("listed");
  ChatStream stream(stub(), request);
  const uint64_t sequence = generator_->WaitSubmit(0).sequence();
  EXPECT_TRUE(stream.Next().has_started());
  v1::ListRequestsResponse list;
  harness_->gateway().ListRequests(10, &list);
  ASSERT_EQ(list.requests_size(), 1);
  EXPECT_EQ(list.total(), 1u);
  EXPECT_EQ(list.requests(0).request_id(), "listed");
  EXPECT_EQ(list.requests(0).phase(), "running");
  EXPECT_EQ(list.requests(0).prompt_tokens(), 8u);
  EXPECT_THAT(list.DebugString(), testing::Not(HasSubstr("secret")));
  generator_->SendFinish(sequence, v1::SEQUENCE_FINISH_REASON_EOS);
  stream.ReadText();
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_TRUE(Eventually([&] {
    v1::ListRequestsResponse after;
    harness_->gateway().ListRequests(10, &after);
    return after.total() == 0;
  }));
}

}  // namespace
}  // namespace qwenserve
