#include <signal.h>

#include <iostream>
#include <memory>

#include "absl/time/clock.h"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"
#include "tools/qwenctl/local_cluster.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kSupervise = absl::Milliseconds(100);
constexpr absl::Duration kStopWait = absl::Seconds(30);

volatile int g_interrupts = 0;  // written by the signal handler only

void OnInterrupt(int) { g_interrupts = g_interrupts + 1; }

// Flags of qwenserve-generator that it gets as they are given here. A value that it does not take
// is refused by it, by the flag's name.
constexpr struct {
  const char* name;
  const char* help;
} kGeneratorFlags[] = {
    {"--load-format",
     "dummy: random weights (the tokenizer's files are still needed), for benchmarks"},
    {"--weights",
     "auto (as the checkpoint holds them), bf16, int8 or int4 (rounded while loading)"},
    {"--kv-dtype", "Format of the KV cache: bf16, f32, int8 or qwen-int8"},
    {"--gpu-memory-fraction", "Part of a GPU's memory that may be used, such as 0.92"},
    {"--isa", "CPU instruction set, such as avx2"},
    {"--gpu-mode", "exact or fast"},
    {"--threads", "Of one replica; 0 = all that it may use"},
    {"--max-batch-tokens", "Rows of one step, at most"},
    {"--max-running", "Sequences in one step"},
    {"--max-step-ms", "Milliseconds of a step that prompts share with answers under way"},
    {"--prefix-cache", "on or off"},
};

struct ServeFlags {
  LocalClusterOptions cluster;
};

int RunServe(ServeFlags& flags) {
  LocalClusterOptions& options = flags.cluster;
  if (options.model_dir.empty()) {
    const absl::StatusOr<std::string> demo = FindDemoModel();
    if (!demo.ok()) return ReportError(demo.status());
    options.model_dir = *demo;
  }
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);

  LocalCluster cluster(options);
  absl::Status status = cluster.Start(&g_interrupts);
  if (status.ok()) {
    std::cout << "gateway grpc " << cluster.gateway_address() << "\n"
              << "gateway http " << cluster.gateway_http_address() << "\n"
              << "gateway ops " << cluster.gateway_ops_address() << std::endl;
    for (const std::string& line : cluster.Describe()) std::cerr << "  " << line << std::endl;
    std::cerr << "ready; Ctrl-C ends all" << std::endl;
    while (g_interrupts == 0 && status.ok()) {
      absl::SleepFor(kSupervise);
      status = cluster.Supervise(&g_interrupts);
    }
    if (absl::IsCancelled(status)) status = absl::OkStatus();  // the usual end
    if (status.ok()) {
      std::cerr << "qwenctl: ending when the answers under way have ended, in "
                << absl::ToInt64Seconds(kStopWait) << " s at the latest; Ctrl-C again ends all at "
                << "once" << std::endl;
    }
  }
  cluster.Stop(kStopWait, &g_interrupts);
  if (absl::IsCancelled(status)) return kExitInterrupted;
  if (status.ok()) return kExitOk;
  // Not through ReportError: this program is the server, there is none to be unavailable.
  std::cerr << "qwenctl: " << status.message() << std::endl;
  return kExitFailed;
}

}  // namespace

void AddServeCommand(CLI::App& app, int* exit_code) {
  CLI::App* command = app.add_subcommand(
      "serve", "Start a gateway, tokenizers and generators on this machine; Ctrl-C ends them");
  auto flags = std::make_shared<ServeFlags>();
  LocalClusterOptions* o = &flags->cluster;
  command->add_option("model_dir", o->model_dir, "Model directory; default: the demo model")
      ->check(CLI::ExistingDirectory);
  command->add_option("--served-model-name", o->served_model_name, "Name for `model` in requests");
  command->add_option("--tp", o->tp, "Tensor-parallel ranks of a replica")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--tp-mode", o->tp_mode, "Ranks as threads or processes")
      ->check(CLI::IsMember({"threads", "processes"}))
      ->capture_default_str();
  command->add_option("--replicas", o->replicas, "Generators")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command->add_option("--tokenizers", o->tokenizers, "Tokenizer workers")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command
      ->add_option("--chat-template", o->chat_template,
                   "Prompt format, such as qwen2.5; auto recognises it")
      ->capture_default_str();
  command
      ->add_option("--tool-format", o->tool_format,
                   "How tools are written: auto, hermes, react, flower or none")
      ->capture_default_str();
  command->add_option("--host", o->host, "Address to listen at")->capture_default_str();
  command->add_option("--port", o->port, "The gateway's gRPC port; 0 = any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command
      ->add_option("--http-port", o->http_port,
                   "The gateway's HTTP port, for OpenAI's clients; 0 = any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command
      ->add_option("--ops-port", o->ops_port,
                   "The gateway's /livez, /readyz and /metrics; 0 = any free port")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->add_option("--device", o->device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--max-model-len", o->max_model_len,
                      "Prompt and answer together; 0 = the model's own");
  command->add_option("--kv-cache-memory", o->kv_cache_memory,
                      "Of one replica, such as 2GiB; default: from the memory that is free");
  command->add_option("--log-level", o->log_level, "Of the servers")
      ->check(CLI::IsMember({"trace", "debug", "info", "warn", "error"}))
      ->capture_default_str();
  for (const auto& flag : kGeneratorFlags) {
    command
        ->add_option_function<std::string>(
            flag.name,
            [o, name = flag.name](const std::string& value) {
              o->generator_flags.insert(o->generator_flags.end(), {name, value});
            },
            flag.help)
        ->group("Of the generators (more in `qwenserve-generator --help`)");
  }
  command->callback([flags, exit_code] { *exit_code = RunServe(*flags); });
}

}  // namespace qwenserve
