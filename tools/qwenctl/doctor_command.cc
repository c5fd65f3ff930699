#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "engine/loader/checkpoint.h"
#include "engine/loader/weight_loader.h"
#include "engine/parallel/shard_plan.h"
#include "engine/runtime/engine_options.h"
#include "engine/runtime/machine_limits.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"
#include "kernels/backend.h"
#include "kernels/cuda_info.h"
#include "services/common/version.h"
#include "tools/qwenctl/commands.h"
#include "tools/qwenctl/exit_codes.h"
#include "tools/qwenctl/local_cluster.h"
#include "tools/qwenctl/memory_report.h"

namespace qwenserve {
namespace {

// Below this a busy gateway runs out of descriptors before it reaches its connection limit.
constexpr rlim_t kWantedDescriptors = 4096;

struct Finding {
  std::string what;
  enum Level { kOk, kWarning, kProblem } level;
  std::string text;
};

class Doctor {
 public:
  void Machine();
  void Gpus();
  void Ports();
  void Model(const std::string& path);
  void Weights(const Checkpoint& checkpoint);

  const std::vector<Finding>& findings() const { return findings_; }
  // Of the model, once its configuration has been read.
  const std::optional<ModelConfig>& config() const { return config_; }

 private:
  void Ok(std::string what, std::string text) {
    findings_.push_back({std::move(what), Finding::kOk, std::move(text)});
  }
  void Warn(std::string what, std::string text) {
    findings_.push_back({std::move(what), Finding::kWarning, std::move(text)});
  }
  void Problem(std::string what, std::string text) {
    findings_.push_back({std::move(what), Finding::kProblem, std::move(text)});
  }

  std::vector<Finding> findings_;
  std::optional<ModelConfig> config_;
};

std::string GibibytesText(int64_t bytes) {
  return absl::StrFormat("%.1f GiB", static_cast<double>(bytes) / (1 << 30));
}

std::string Megabytes(int64_t bytes) {
  return absl::StrFormat("%.1f MB", static_cast<double>(bytes) / 1e6);
}

void Doctor::Machine() {
  const CpuLimits cpus = ReadCpuLimits();
  Ok("processors", absl::StrCat(cpus.usable(), " usable of ", cpus.machine));
  const MemoryLimits memory = ReadMemoryLimits();
  Ok("memory", absl::StrCat(GibibytesText(memory.available), " available (", memory.reason, ")"));
  const auto backend = MakeCpuBackend({});
  if (backend.ok()) {
    const auto isa = CpuIsaName("auto");
    Ok("kernels", absl::StrCat(isa.ok() ? *isa : "", ", numerics ",
                               (*backend)->kernel_table(WeightFormat::kBf16)));
  } else {
    Problem("kernels", std::string(backend.status().message()));
  }
  Ok("gpu kernels", CudaArchitectures().empty() ? "none" : CudaArchitectures());
  Gpus();
  rlimit descriptors = {};
  getrlimit(RLIMIT_NOFILE, &descriptors);
  const std::string count = absl::StrCat("at most ", descriptors.rlim_cur, " open at once");
  descriptors.rlim_cur >= kWantedDescriptors
      ? Ok("descriptors", count)
      : Warn("descriptors", absl::StrCat(count, "; raise `ulimit -n` to ", kWantedDescriptors));
}

void Doctor::Gpus() {
  const absl::StatusOr<int> count = CountCudaDevices();
  if (!count.ok()) {
    const std::string why(count.status().message());
    const bool none = absl::IsNotFound(count.status()) || absl::IsUnimplemented(count.status());
    none ? Ok("gpu", absl::StrCat("none: ", why)) : Problem("gpu", why);
    return;
  }
  for (int i = 0; i < *count; ++i) {
    CudaBackendOptions options;
    options.device = i;
    const auto gpu = MakeCudaBackend(options);
    if (!gpu.ok()) {
      Problem(absl::StrCat("gpu ", i), std::string(gpu.status().message()));
      continue;
    }
    const DeviceMemory memory = (*gpu)->memory().value_or(DeviceMemory());
    Ok(absl::StrCat("gpu ", i),
       absl::StrCat((*gpu)->description(), ", ",
                    GibibytesText(static_cast<int64_t>(memory.free_bytes)), " free of ",
                    GibibytesText(static_cast<int64_t>(memory.total_bytes)), ", numerics ",
                    (*gpu)->kernel_table(WeightFormat::kBf16)));
  }
}

void Doctor::Ports() {
  struct Port {
    const char* name;
    const char* flag;
    int port;
  };
  const LocalClusterOptions serve;
  for (const auto& [name, flag, port] : {Port{"gateway gRPC", "--port", serve.port},
                                         Port{"gateway HTTP", "--http-port", serve.http_port},
                                         Port{"gateway ops", "--ops-port", serve.ops_port}}) {
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const bool free = bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
    close(fd);
    const std::string what = absl::StrCat("port ", port);
    free ? Ok(what, absl::StrCat("free, for the ", name))
         : Warn(what, absl::StrCat("taken; for the ", name, " give `serve` another one by ", flag));
  }
}

std::string Describe(const ModelConfig& config) {
  return absl::StrCat(config.architecture, ", ", config.num_layers, " layers of ",
                      config.hidden_size, ", context ", config.max_positions);
}

void Doctor::Weights(const Checkpoint& checkpoint) {
  const auto whole = MakeShardPlan(checkpoint.config(), 1, 0);
  const auto bytes = whole.ok() ? LoadedBytes(checkpoint, *whole, WeightChoice::kAuto)
                                : absl::StatusOr<int64_t>(whole.status());
  if (!bytes.ok()) {
    Problem("weights", std::string(bytes.status().message()));
    return;
  }
  std::string sizes = absl::StrCat(Megabytes(*bytes), " of memory");
  for (const auto& [name, choice] :
       {std::pair<const char*, WeightChoice>{"int8", WeightChoice::kInt8},
        {"int4", WeightChoice::kInt4}}) {
    const auto rounded = LoadedBytes(checkpoint, *whole, choice);
    if (rounded.ok()) absl::StrAppend(&sizes, ", ", Megabytes(*rounded), " with --weights ", name);
  }
  const int64_t available = ReadMemoryLimits().available;
  *bytes <= available
      ? Ok("weights", sizes)
      : Problem("weights", absl::StrCat(sizes, "; there are ", Megabytes(available)));
}

// Whether there are no weights at `path`: a config.json, or a folder without more. Its
// configuration is enough to plan with.
absl::StatusOr<ModelConfig> ConfigAlone(const std::string& path) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    QS_ASSIGN_OR_RETURN(const auto dummy, Checkpoint::Open(path, LoadFormat::kDummy));
    return dummy->config();
  }
  QS_ASSIGN_OR_RETURN(const Json json, ReadJsonFile(path, 1 << 20));
  return ParseModelConfig(json, path);
}

void Doctor::Model(const std::string& path) {
  std::error_code ignored;
  const bool is_file = std::filesystem::is_regular_file(path, ignored);
  const auto checkpoint = is_file ? absl::NotFoundError("") : Checkpoint::Open(path);
  if (absl::IsNotFound(checkpoint.status())) {
    const auto config = ConfigAlone(path);
    if (!config.ok()) {
      Problem("model", std::string(config.status().message()));
      return;
    }
    config_ = *config;
    Ok("model", absl::StrCat(path, ": a configuration without weights; ", Describe(*config)));
    return;
  }
  if (!checkpoint.ok()) {
    Problem("model", std::string(checkpoint.status().message()));
    return;
  }
  const ModelConfig& config = (*checkpoint)->config();
  config_ = config;
  int64_t file_bytes = 0;
  for (const TensorRef& tensor : (*checkpoint)->tensors()) file_bytes += tensor.bytes;
  Ok("model", absl::StrCat(path, ": ", Describe(config), ", weights ", Megabytes(file_bytes)));
  if (config.quantization.has_value()) Ok("format", DescribeQuantization(*config.quantization));
  Weights(**checkpoint);
  const auto tokenizer = Tokenizer::Load(path);
  tokenizer.ok() ? Ok("tokenizer", absl::StrCat((*tokenizer)->vocab_size(), " ids"))
                 : Problem("tokenizer", std::string(tokenizer.status().message()));
  const auto chat = ChatTemplate::Recognise(path);
  chat.ok() ? Ok("chat", "template recognised")
            : Warn("chat", std::string(chat.status().message()));
}

struct DoctorFlags {
  std::string model;
  std::string output = "text";
  bool json = false;
  MemoryRequest memory = {.device = DeviceKind::kCuda, .max_rows = kGpuBatchTokens};
  double fraction = EngineOptions().gpu_memory_fraction;
};

int RunDoctor(const DoctorFlags& flags) {
  Doctor doctor;
  doctor.Machine();
  doctor.Ports();
  if (!flags.model.empty()) {
    doctor.Model(flags.model);
  } else if (const auto demo = FindDemoModel(); demo.ok()) {
    doctor.Model(*demo);
  }
  const bool json = flags.json || flags.output == "json";
  static constexpr const char* kNames[] = {"ok", "warning", "problem"};
  Json list = Json::array();
  bool healthy = true;
  for (const Finding& finding : doctor.findings()) {
    healthy = healthy && finding.level != Finding::kProblem;
    if (json) {
      list.push_back(
          {{"check", finding.what}, {"level", kNames[finding.level]}, {"text", finding.text}});
    } else {
      std::cout << absl::StrFormat("%-8s %-12s %s", kNames[finding.level], finding.what,
                                   finding.text)
                << std::endl;
    }
  }
  // Where the model was told: how large it would be on GPUs.
  if (!flags.model.empty() && doctor.config().has_value()) {
    if (json) {
      list.push_back(
          {{"check", "gpu memory"},
           {"level", "ok"},
           {"text", "what GPUs of common sizes would hold"},
           {"memory", MemoryReportJson(*doctor.config(), flags.memory, flags.fraction)}});
    } else {
      std::cout << "\n" << MemoryReportText(*doctor.config(), flags.memory, flags.fraction);
    }
  }
  if (json) std::cout << list.dump() << std::endl;
  return healthy ? kExitOk : kExitFailed;
}

}  // namespace

void AddDoctorCommand(CLI::App& app, int* exit_code) {
  CLI::App* command =
      app.add_subcommand("doctor", "Check this machine and, if given, a model directory");
  auto flags = std::make_shared<DoctorFlags>();
  command->footer(
      "Of weights, names, shapes and sizes are read here; their values are checked while loading. "
      "With a model, or a config.json alone, a table tells what GPUs would hold.");
  command->add_option("model", flags->model,
                      "Model directory or config.json; default: the demo model");
  command->add_option("--output", flags->output, "text or json")
      ->check(CLI::IsMember({"text", "json"}));
  command->add_flag("--json", flags->json, "The same as --output json");
  command
      ->add_option("--max-model-len", flags->memory.max_model_len,
                   "For the table; 0 = the model's own")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--max-running", flags->memory.max_sequences, "For the table")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command->add_option("--max-batch-tokens", flags->memory.max_rows, "For the table")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--gpu-memory-fraction", flags->fraction, "For the table")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
  command->callback([=] { *exit_code = RunDoctor(*flags); });
}

}  // namespace qwenserve
