#ifndef QWENSERVE_TOOLS_QWENCTL_LOCAL_CLUSTER_H_
#define QWENSERVE_TOOLS_QWENCTL_LOCAL_CLUSTER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "tools/qwenctl/server_child.h"

namespace qwenserve {

// The flags of `qwenctl serve`, with their meaning there. Ports: 0 = any free one. kv_cache_memory:
// of one replica, as --kv-cache-memory takes it; empty = each sizes it, within an equal share of
// the memory that is free. generator_flags: more flags of qwenserve-generator, as it takes them; it
// checks their values.
struct LocalClusterOptions {
  std::string model_dir;
  std::string served_model_name;
  std::string host = "127.0.0.1";
  int port = 50051;
  int http_port = 8080;
  int ops_port = 9090;
  int tp = 1;
  std::string tp_mode = "threads";
  int replicas = 1;
  int tokenizers = 1;
  std::string device = "auto";
  int64_t max_model_len = 0;
  std::string kv_cache_memory;
  std::vector<std::string> generator_flags;
  std::string chat_template = "auto";
  std::string tool_format = "auto";
  std::string log_level = "info";
};

// A gateway, tokenizer workers and generator replicas as children of this process. Each generator
// gets its own share of the processors. A child that dies is started again at the same address,
// but a cluster that keeps dying ends.
class LocalCluster {
 public:
  explicit LocalCluster(LocalClusterOptions options);
  ~LocalCluster();

  // Starts all and returns when the gateway is ready, or the first child's failure.
  // CANCELLED when `interrupted` turned true meanwhile.
  absl::Status Start(const volatile int* interrupted);

  // Restarts what has died. An error when that happens too often. CANCELLED when `interrupted`
  // turned true meanwhile: a worker that loads its model again takes its time.
  absl::Status Supervise(const volatile int* interrupted);

  // Asks the gateway, then the workers, to finish and end; kills what does not end in `wait` or
  // when `interrupted` rises again.
  void Stop(absl::Duration wait, const volatile int* interrupted);

  const std::string& gateway_address() const { return members_.back().address; }
  const std::string& gateway_ops_address() const { return members_.back().ops_address; }
  const std::string& gateway_http_address() const { return members_.back().http_address; }
  // "tokenizer 127.0.0.1:40001 ops 127.0.0.1:40002 pid 12", one for each child.
  std::vector<std::string> Describe() const;

 private:
  struct Member {
    std::string role;
    std::vector<std::string> flags;  // without addresses
    std::vector<int> cpus;
    std::string address;  // as asked for, then as bound
    std::string ops_address;
    std::unique_ptr<ServerChild> process = nullptr;
    std::string http_address = "";  // the gateway's only
  };

  // UNAVAILABLE, with the flag to change, when the gateway could not listen at `port`.
  absl::Status CheckPort(absl::string_view flag, int port) const;
  void PlanWorkers();
  void PlanGateway();
  absl::Status StartMember(Member& member, const volatile int* interrupted);
  absl::Status WaitUntilReady(Member& member, const volatile int* interrupted);

  const LocalClusterOptions options_;
  std::vector<Member> members_;  // tokenizers, generators, then the gateway
  std::vector<absl::Time> restarts_;
};

// The model that comes with the program, or NOT_FOUND: QWENSERVE_DEMO_MODEL, beside an installed
// program, or in the source tree of a build.
absl::StatusOr<std::string> FindDemoModel();

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_LOCAL_CLUSTER_H_
