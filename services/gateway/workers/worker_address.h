#ifndef QWENSERVE_SERVICES_GATEWAY_WORKERS_WORKER_ADDRESS_H_
#define QWENSERVE_SERVICES_GATEWAY_WORKERS_WORKER_ADDRESS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace qwenserve {

// One entry of a list of workers.
struct WorkerAddress {
  // A name, or a number without brackets; empty: `target` is all there is.
  std::string host;
  int port = 0;
  // The gRPC target, where no look-up is needed: "ipv4:10.0.0.1:50071", "unix:PATH".
  std::string target;
};

// HOST:PORT, [V6]:PORT or unix:PATH, else INVALID_ARGUMENT.
absl::StatusOr<WorkerAddress> ParseWorkerAddress(absl::string_view text);

// The target of a numeric IPv4 or IPv6 address; nullopt for anything else.
std::optional<std::string> NumericTarget(const std::string& ip, int port);

// A file of workers: an address per line, the rest of a line after '#' is ignored, as are empty
// lines. INVALID_ARGUMENT names the line; a list without any address is an error too, because it
// is more likely half written than meant.
absl::StatusOr<std::vector<WorkerAddress>> ParseWorkerList(absl::string_view text);

// For a flag: an address, or file:PATH. INVALID_ARGUMENT otherwise.
absl::Status CheckWorkerSource(const std::string& source);
// PATH of file:PATH.
std::optional<std::string> FileOfSource(const std::string& source);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_WORKERS_WORKER_ADDRESS_H_
