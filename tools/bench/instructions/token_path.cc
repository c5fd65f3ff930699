#include "tools/bench/instructions/token_path.h"

#include <utility>
#include <variant>

#include "kernels/check.h"
#include "qwenserve/v1/inference.pb.h"
#include "services/gateway/answer/response_builder.h"

namespace qwenserve {
namespace {

constexpr uint32_t kWords = 500;
constexpr char kHash[] = "h";

}  // namespace

// Writes what the call has as a stream's messages, at once.
class TokenPath::Sink final : public CallSink {
 public:
  void Wake() override {
    while (call != nullptr) {
      GenerateCall::Output output = call->Next();
      if (std::holds_alternative<std::monostate>(output)) return;
      if (auto* delta = std::get_if<AnswerDelta>(&output)) {
        SetDelta(std::move(*delta), &response_);
      } else {
        QS_CHECK(std::holds_alternative<v1::Started>(output));
      }
      wire_.clear();
      QS_CHECK(response_.AppendToString(&wire_));
      bytes += wire_.size();
      call->Taken();
    }
  }
  void Drop() override {}

  GenerateCall* call = nullptr;
  size_t bytes = 0;

 private:
  v1::StreamCompleteResponse response_;
  std::string wire_;
};

class TokenPath::Text final : public TextService {
 public:
  Text() : known_(std::make_shared<TokenTexts>()) {
    for (uint32_t id = 0; id < kWords; ++id) {
      v1::DetokenizeItem item;
      item.add_ids(id);
      v1::DetokenizeResult result;
      result.set_text(" time");
      result.add_text_lengths(5);
      known_->Learn(item, result);
    }
  }
  std::function<void()> Prepare(v1::PrepareRequest, const std::string&, absl::Time,
                                PrepareCallback done) override {
    prepared = std::move(done);
    return [] {};
  }
  uint64_t NewKey() override { return ++key_; }
  std::shared_ptr<const TokenTexts> KnownTexts(const std::string&) override { return known_; }
  void Detokenize(v1::DetokenizeItem, const std::string&, std::shared_ptr<TextListener>) override {
    QS_CHECK(false);  // all that is measured is known
  }
  void Flush() override {}

  PrepareCallback prepared;

 private:
  const std::shared_ptr<TokenTexts> known_;
  uint64_t key_ = 0;
};

class TokenPath::Replica final : public GeneratorReplica {
 public:
  const v1::ServerHello& hello() const override { return hello_; }
  std::optional<uint64_t> Submit(v1::Submit, const PlaceCost&,
                                 std::shared_ptr<SequenceListener>) override {
    return 1;
  }
  void Cancel(uint64_t) override {}
  void AddCredit(uint64_t, uint32_t) override {}
  void Release(const PlaceCost&) override {}

 private:
  v1::ServerHello hello_;
};

class TokenPath::Placement final : public Placer {
 public:
  void Place(PlacementRequest, std::shared_ptr<PlacementListener> listener) override {
    listener->OnPlaced(replica_);
  }
  void Withdraw(const PlacementListener*) override {}

 private:
  const std::shared_ptr<Replica> replica_ = std::make_shared<Replica>();
};

TokenPath::TokenPath(uint32_t streams)
    : registry_("gateway"),
      metrics_(registry_),
      admission_({}),
      key_limits_([this] { return now_; }, &metrics_),
      text_(std::make_unique<Text>()),
      placement_(std::make_unique<Placement>()) {
  KnownTokenizer tokenizer;
  tokenizer.description.set_model("m");
  tokenizer.description.set_tokenizer_hash(kHash);
  tokenizer.ready = true;
  KnownGenerator generator;
  generator.hello.set_model("m");
  generator.hello.set_tokenizer_hash(kHash);
  generator.hello.mutable_limits()->set_max_model_len(1 << 20);
  generator.ready = true;
  const auto catalog =
      std::make_shared<const ModelCatalog>(std::vector{tokenizer}, std::vector{generator});
  services_.admission = &admission_;
  services_.key_limits = &key_limits_;
  services_.text = text_.get();
  services_.placer = placement_.get();
  services_.catalog = [catalog] { return catalog; };
  services_.metrics = &metrics_;
  services_.retries = &retries_;
  services_.clock = [this] { return now_; };
  for (uint32_t i = 0; i < streams; ++i) OpenStream(i);
}

TokenPath::~TokenPath() {
  for (const auto& sink : sinks_) sink->call = nullptr;
  for (const auto& call : calls_) call->Abort();
}

void TokenPath::OpenStream(uint32_t index) {
  auto sink = std::make_shared<Sink>();
  auto call = std::make_shared<GenerateCall>(GatewayMetrics::kStreamComplete,
                                             absl::InfiniteFuture(), services_, sink);
  sink->call = call.get();
  GenerateRequest request;
  request.prompt.set_text("x");
  request.options.set_max_tokens(1 << 19);
  request.options.mutable_sampling()->set_seed(index);
  call->Start({Caller(), std::move(request), 1});
  v1::PrepareResponse response;
  response.add_prompt_ids(7);
  response.set_tokenizer_hash(kHash);
  QS_CHECK(text_->prepared != nullptr);
  std::exchange(text_->prepared, nullptr)(std::move(response));
  sinks_.push_back(std::move(sink));
  calls_.push_back(std::move(call));
}

std::string TokenPath::MakeStep() const {
  v1::SessionResponse response;
  for (uint32_t i = 0; i < calls_.size(); ++i) {
    v1::SequenceEvent* event = response.mutable_step_events()->add_events();
    event->set_sequence(i + 1);
    event->set_first_token_index(tokens_);
    event->add_token_ids((tokens_ + i) % kWords);
  }
  return response.SerializeAsString();
}

void TokenPath::Prepare() { step_ = MakeStep(); }

size_t TokenPath::Step() {
  now_ += absl::Milliseconds(20);
  QS_CHECK(response_.ParseFromString(step_));
  for (v1::SequenceEvent& event : *response_.mutable_step_events()->mutable_events()) {
    calls_[event.sequence() - 1]->OnSequenceEvent(0, std::move(event));
  }
  ++tokens_;
  size_t written = 0;
  for (const auto& sink : sinks_) written += std::exchange(sink->bytes, 0);
  return written;
}

}  // namespace qwenserve
