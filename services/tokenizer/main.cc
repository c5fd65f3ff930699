// qwenserve-tokenizer: text to ids and ids to text for the gateways.

#include <sched.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "engine/base/status_macros.h"
#include "services/common/server_main.h"
#include "services/tokenizer/tokenizer_service.h"
#include "services/tokenizer/tokenizer_worker.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

struct PrepareThreads {
  int count = 1;
  int max_waiting = 1024;  // prompts; more are refused
};

// Of the processors that this process may use, up to four: encoding is rarely the bottleneck.
int DefaultThreads() {
  cpu_set_t processors;
  if (sched_getaffinity(0, sizeof(processors), &processors) != 0) return 1;
  return std::clamp(CPU_COUNT(&processors), 1, 4);
}

class TokenizerRole : public ServerRole {
 public:
  TokenizerRole(ServerContext& context, std::unique_ptr<TokenizerWorker> worker,
                const PrepareThreads& threads)
      : context_(context),
        worker_(std::move(worker)),
        metrics_(context.metrics()),
        service_(*worker_, metrics_, threads.count, static_cast<size_t>(threads.max_waiting),
                 context.tracer()) {}

  std::vector<grpc::Service*> services() override { return {&service_}; }
  void OnListening(const std::string&) override {
    context_.SetServing(worker_->model(), true);
    context_.SetReady(true);
  }
  void OnDrain(absl::Duration) override {}
  int64_t InFlight() override { return service_.InFlight(); }
  void CloseStreams() override { service_.CloseStreams(); }
  void FillStatus(v1::GetStatusResponse* status) override { status->add_models(worker_->model()); }

 private:
  ServerContext& context_;
  const std::unique_ptr<TokenizerWorker> worker_;
  TokenizerMetrics metrics_;
  TokenizerService service_;
};

absl::StatusOr<std::unique_ptr<ServerRole>> MakeRole(TokenizerWorkerOptions options,
                                                     const PrepareThreads& threads,
                                                     ServerContext& context) {
  options.instance_id = context.instance_id();
  QS_ASSIGN_OR_RETURN(std::unique_ptr<TokenizerWorker> worker, TokenizerWorker::Create(options));
  const v1::DescribeResponse description = worker->Describe();
  spdlog::info("model {}: {} tokens, hash {}, chat template {}, {} threads", description.model(),
               description.vocab_size(), description.tokenizer_hash(),
               description.chat_template().empty() ? "unknown" : description.chat_template(),
               threads.count);
  return std::make_unique<TokenizerRole>(context, std::move(worker), threads);
}

}  // namespace
}  // namespace qwenserve

int main(int argc, char** argv) {
  using namespace qwenserve;  // NOLINT: a main of wiring only
  ServerOptions server;
  TokenizerWorkerOptions worker;
  PrepareThreads threads;
  threads.count = DefaultThreads();
  Flags flags("qwenserve-tokenizer", "Turns text into token ids and back for the gateways.");
  AddServerFlags(flags, &server, 50061, 9090);
  flags.Add("model", &worker.model_dir, "Folder of the checkpoint");
  flags.Required();
  flags.Add("served-model-name", &worker.served_model_name, "Default: the folder's name");
  flags.Add("chat-template", &worker.chat_template, "Prompt format; auto recognises it");
  flags.OneOf({"auto", "qwen1", "qwen1.5", "qwen2", "qwen2.5", "qwen3", "qwen3-instruct-2507",
               "qwen3-thinking-2507"});
  flags.Add("tool-format", &worker.tool_format,
            "How tools and calls are written; auto: as the prompt format's models know it");
  flags.OneOf({"auto", "hermes", "react", "flower", "none"});
  flags.Add("threads", &threads.count, "Threads that prepare prompts, 1 to 64");
  flags.Add("max-waiting-prompts", &threads.max_waiting, "Prompts that may wait for a thread");
  flags.AddBytes("max-prompt-bytes", &worker.max_prompt_bytes, "Text of one request");
  flags.Add("max-prompt-tokens", &worker.max_prompt_tokens, "Ids of one request");
  if (auto status = flags.ParseOrExit(argc, argv)) return *status;
  return RunServer("tokenizer", Exposure::kInternal, server, [&](ServerContext& context) {
    if (threads.count < 1 || threads.count > 64 || threads.max_waiting < 1) {
      return absl::StatusOr<std::unique_ptr<ServerRole>>(
          absl::InvalidArgumentError("--threads or --max-waiting-prompts is out of range"));
    }
    return MakeRole(worker, threads, context);
  });
}
