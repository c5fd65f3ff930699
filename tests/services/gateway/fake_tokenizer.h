#ifndef QWENSERVE_TESTS_SERVICES_GATEWAY_FAKE_TOKENIZER_H_
#define QWENSERVE_TESTS_SERVICES_GATEWAY_FAKE_TOKENIZER_H_

#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "grpcpp/server.h"
#include "qwenserve/v1/tokenizer.grpc.pb.h"

namespace qwenserve {

// A tokenizer whose ids are bytes: id 65 is "A". Real server, real streams; scripted troubles.
class FakeTokenizer final : public v1::Tokenizer::Service {
 public:
  struct Options {
    std::string model = "fake";
    std::string hash = "hash-1";
    std::string chat_template = "fake-template";
    v1::AnswerFormat answer_format;
    int port = 0;
  };
  explicit FakeTokenizer(Options options);
  FakeTokenizer() : FakeTokenizer(Options()) {}
  ~FakeTokenizer() override { Kill(); }

  std::string address() const;
  int port() const { return port_; }
  // The port is gone, every stream broken.
  void Kill();

  // Detokenize requests are read, but not answered, until it is taken back.
  void HoldAnswers(bool hold);
  // The stream of the next request breaks instead of answering.
  void BreakNextStream();
  // Prepare waits.
  void HoldPrepare(bool hold);
  // Nothing is answered any more, as by a stopped process.
  void Freeze();
  // Every Prepare ends with this status.
  void FailPrepare(const grpc::Status& status);

  int num_prepared() const;
  // Items per message, in order of arrival.
  std::vector<int> message_sizes() const;
  int num_items() const;
  std::vector<v1::PrepareRequest> prepared() const;

 private:
  grpc::Status Describe(grpc::ServerContext* context, const v1::DescribeRequest* request,
                        v1::DescribeResponse* response) override;
  grpc::Status Prepare(grpc::ServerContext* context, const v1::PrepareRequest* request,
                       v1::PrepareResponse* response) override;
  grpc::Status Detokenize(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::DetokenizeResponse, v1::DetokenizeRequest>* stream) override;

  const Options options_;
  const std::string instance_id_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
  mutable absl::Mutex mutex_;
  bool hold_answers_ ABSL_GUARDED_BY(mutex_) = false;
  bool hold_prepare_ ABSL_GUARDED_BY(mutex_) = false;
  bool frozen_ ABSL_GUARDED_BY(mutex_) = false;
  bool break_next_ ABSL_GUARDED_BY(mutex_) = false;
  bool dead_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::Status prepare_status_ ABSL_GUARDED_BY(mutex_);
  std::vector<v1::PrepareRequest> prepared_ ABSL_GUARDED_BY(mutex_);
  std::vector<int> message_sizes_ ABSL_GUARDED_BY(mutex_);
};

// The fake's decoding, with the real contract about unfinished characters.
v1::DetokenizeResult FakeDecode(const v1::DetokenizeItem& item);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_SERVICES_GATEWAY_FAKE_TOKENIZER_H_
