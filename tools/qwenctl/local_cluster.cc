#include "tools/qwenctl/local_cluster.h"

#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"
#include "engine/runtime/machine_limits.h"
#include "services/common/net/listen_socket.h"

namespace qwenserve {
namespace {

// More deaths than this within a minute are no accident.
constexpr size_t kMaxRestarts = 5;
constexpr absl::Duration kRestartWindow = absl::Minutes(1);
constexpr absl::Duration kPoll = absl::Milliseconds(50);

std::filesystem::path ProgramFolder() {
  std::error_code ignored;  // without /proc: the working directory
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path();
}

std::vector<int> UsableCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

// Part `index` of `parts` nearly equal runs; all of it when there is less than one each.
std::vector<int> Share(const std::vector<int>& cpus, int index, int parts) {
  const size_t n = cpus.size();
  if (n < static_cast<size_t>(parts)) return cpus;
  return std::vector<int>(cpus.begin() + static_cast<ptrdiff_t>(n * index / parts),
                          cpus.begin() + static_cast<ptrdiff_t>(n * (index + 1) / parts));
}

}  // namespace

absl::StatusOr<std::string> FindDemoModel() {
  std::vector<std::filesystem::path> places;
  if (const char* place = std::getenv("QWENSERVE_DEMO_MODEL")) places.emplace_back(place);
  places.push_back(ProgramFolder() / "../share/qwenserve/models/demo");
  places.push_back(ProgramFolder() / "../../models/demo");
  for (const auto& place : places) {
    std::error_code ignored;
    if (std::filesystem::exists(place / "config.json", ignored)) {
      return std::filesystem::canonical(place).string();
    }
  }
  return absl::NotFoundError(
      "the demo model is not beside this program: give a model directory, or set "
      "QWENSERVE_DEMO_MODEL");
}

LocalCluster::LocalCluster(LocalClusterOptions options) : options_(std::move(options)) {}

LocalCluster::~LocalCluster() = default;

void LocalCluster::PlanWorkers() {
  const std::string any_port = absl::StrCat(options_.host, ":0");
  std::vector<std::string> common = {"--model",          options_.model_dir, "--log-level",
                                     options_.log_level, "--drain-delay",    "0"};
  if (!options_.served_model_name.empty()) {
    common.insert(common.end(), {"--served-model-name", options_.served_model_name});
  }
  std::vector<std::string> tokenizer = common;
  tokenizer.insert(tokenizer.end(), {"--chat-template", options_.chat_template, "--tool-format",
                                     options_.tool_format});
  for (int i = 0; i < options_.tokenizers; ++i) {
    members_.push_back({"tokenizer", tokenizer, {}, any_port, any_port});
  }
  std::vector<std::string> generator = common;
  generator.insert(generator.end(),
                   {"--tp", absl::StrCat(options_.tp), "--tp-mode", options_.tp_mode, "--device",
                    options_.device, "--max-model-len", absl::StrCat(options_.max_model_len)});
  generator.insert(generator.end(), options_.generator_flags.begin(),
                   options_.generator_flags.end());
  if (!options_.kv_cache_memory.empty()) {
    generator.insert(generator.end(), {"--kv-cache-memory", options_.kv_cache_memory});
  } else if (options_.replicas > 1) {
    // Each sizes its KV cache by the memory that it finds, and all would find the same.
    const int64_t share = ReadMemoryLimits().available / options_.replicas;
    generator.insert(generator.end(), {"--memory-limit", absl::StrCat(share)});
  }
  const std::vector<int> cpus = UsableCpus();
  for (int i = 0; i < options_.replicas; ++i) {
    members_.push_back(
        {"generator", generator, Share(cpus, i, options_.replicas), any_port, any_port});
  }
}

void LocalCluster::PlanGateway() {
  std::vector<std::string> tokenizers;
  std::vector<std::string> generators;
  for (const Member& member : members_) {
    (member.role == "tokenizer" ? tokenizers : generators).push_back(member.address);
  }
  members_.push_back(
      {"gateway",
       {"--tokenizers", absl::StrJoin(tokenizers, ","), "--generators",
        absl::StrJoin(generators, ","), "--log-level", options_.log_level, "--drain-delay", "0"},
       {},
       absl::StrCat(options_.host, ":", options_.port),
       absl::StrCat(options_.host, ":", options_.ops_port),
       nullptr,
       absl::StrCat(options_.host, ":", options_.http_port)});
}

absl::Status LocalCluster::CheckPort(absl::string_view flag, int port) const {
  if (port == 0) return absl::OkStatus();
  const auto probe = BindSocket(absl::StrCat(options_.host, ":", port));
  if (probe.ok()) return absl::OkStatus();
  return absl::Status(probe.status().code(), absl::StrCat("--host ", options_.host, " ", flag, " ",
                                                          port, ": ", probe.status().message()));
}

absl::Status LocalCluster::Start(const volatile int* interrupted) {
  // The workers come first and may load for minutes; a busy port should not be told after that.
  QS_RETURN_IF_ERROR(CheckPort("--port", options_.port));
  QS_RETURN_IF_ERROR(CheckPort("--http-port", options_.http_port));
  QS_RETURN_IF_ERROR(CheckPort("--ops-port", options_.ops_port));
  PlanWorkers();
  for (Member& member : members_) QS_RETURN_IF_ERROR(StartMember(member, interrupted));
  PlanGateway();
  QS_RETURN_IF_ERROR(StartMember(members_.back(), interrupted));
  for (Member& member : members_) QS_RETURN_IF_ERROR(WaitUntilReady(member, interrupted));
  return absl::OkStatus();
}

absl::Status LocalCluster::StartMember(Member& member, const volatile int* interrupted) {
  std::vector<std::string> argv = {
      (ProgramFolder() / absl::StrCat("qwenserve-", member.role)).string(), "--listen",
      member.address, "--ops-listen", member.ops_address};
  const bool has_http = !member.http_address.empty();
  if (has_http) argv.insert(argv.end(), {"--http-listen", member.http_address});
  argv.insert(argv.end(), member.flags.begin(), member.flags.end());
  QS_ASSIGN_OR_RETURN(member.process, ServerChild::Spawn(member.role, argv, member.cpus));
  for (const auto& [name, address] :
       {std::pair<const char*, std::string*>{"ops", &member.ops_address},
        std::pair<const char*, std::string*>{"http", has_http ? &member.http_address : nullptr},
        std::pair<const char*, std::string*>{"grpc", &member.address}}) {
    if (address == nullptr) continue;
    std::string bound;
    while ((bound = member.process->WaitForAddress(name, kPoll)).empty()) {
      if (*interrupted != 0) return absl::CancelledError("interrupted");
      if (!member.process->Running()) {
        return absl::UnavailableError(absl::StrCat(
            "the ", member.role, " did not start: ", member.process->Outcome(), " (see above)"));
      }
    }
    *address = bound;  // a restart asks for the same one
  }
  return absl::OkStatus();
}

absl::Status LocalCluster::WaitUntilReady(Member& member, const volatile int* interrupted) {
  while (!member.process->WaitUntilReady(kPoll)) {
    if (*interrupted != 0) return absl::CancelledError("interrupted");
    if (!member.process->Running()) {
      return absl::UnavailableError(absl::StrCat("the ", member.role, " did not become ready: ",
                                                 member.process->Outcome(), " (see above)"));
    }
  }
  return absl::OkStatus();
}

absl::Status LocalCluster::Supervise(const volatile int* interrupted) {
  for (Member& member : members_) {
    if (member.process->Running()) continue;
    const absl::Time now = absl::Now();
    std::erase_if(restarts_, [&](absl::Time t) { return t < now - kRestartWindow; });
    restarts_.push_back(now);
    if (restarts_.size() > kMaxRestarts) {
      return absl::UnavailableError(absl::StrCat("the ", member.role, " ended with ",
                                                 member.process->Outcome(), "; ", kMaxRestarts,
                                                 " restarts in a minute are enough"));
    }
    std::cerr << "qwenctl: the " << member.role << " at " << member.address << " ended with "
              << member.process->Outcome() << ", starting it again" << std::endl;
    QS_RETURN_IF_ERROR(StartMember(member, interrupted));
  }
  return absl::OkStatus();
}

void LocalCluster::Stop(absl::Duration wait, const volatile int* interrupted) {
  const absl::Time deadline = absl::Now() + wait;
  const int interrupted_before = *interrupted;
  // The gateway goes first: its streams need the workers.
  for (auto it = members_.rbegin(); it != members_.rend(); ++it) {
    if (it->process == nullptr) continue;
    it->process->Signal(SIGTERM);
    if (it->role != "gateway" && std::next(it) != members_.rend()) continue;
    while (!it->process->WaitForEnd(kPoll)) {
      if (absl::Now() > deadline || *interrupted != interrupted_before) break;
    }
  }
  for (Member& member : members_) {
    if (member.process == nullptr) continue;
    while (!member.process->WaitForEnd(kPoll)) {
      if (absl::Now() > deadline || *interrupted != interrupted_before) {
        member.process->Signal(SIGKILL);
      }
    }
  }
}

std::vector<std::string> LocalCluster::Describe() const {
  std::vector<std::string> lines;
  for (const Member& member : members_) {
    lines.push_back(absl::StrCat(member.role, " ", member.address, " ops ", member.ops_address,
                                 " pid ", member.process->pid()));
  }
  return lines;
}

}  // namespace qwenserve
