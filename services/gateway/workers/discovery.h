#ifndef QWENSERVE_SERVICES_GATEWAY_WORKERS_DISCOVERY_H_
#define QWENSERVE_SERVICES_GATEWAY_WORKERS_DISCOVERY_H_

#include <functional>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/base/monotonic_time.h"
#include "services/gateway/workers/dns_client.h"
#include "services/gateway/workers/worker_address.h"

namespace qwenserve {

struct DiscoverySettings {
  DnsSettings dns;
  // A name is asked for again when its records' time to live is over, but within these bounds, and
  // after the lower one when it has failed; sooner as long as it never had an address, for
  // whatever starts together with the gateway.
  absl::Duration min_ttl = absl::Seconds(1);
  absl::Duration max_ttl = absl::Seconds(30);
  // Files are read again so often, whatever their times say: a mount that swaps a link under the
  // name is seen like any other change.
  absl::Duration file_interval = absl::Seconds(1);
};

// Keeps the set of workers up to date from a list of sources:
//   HOST:PORT, [V6]:PORT   one worker, or as many as the name has addresses (a headless service)
//   unix:PATH              one worker
//   file:PATH              as ParseWorkerList; its entries are any of the above
// A name that does not resolve and a file that cannot be read keep what they last gave: a sick DNS
// must not take the workers away. Changes need no restart. One thread, since resolving blocks.
class Discovery {
 public:
  struct Hooks {
    // All targets for gRPC, sorted, none twice. From the discovery's thread: first at once with
    // what needs no look-up, then after each change.
    std::function<void(const std::vector<std::string>&)> on_targets;
    std::function<void()> on_dns_failure;
    std::function<void()> on_file_failure;
  };

  // `sources` have passed CheckWorkerSource.
  Discovery(const std::vector<std::string>& sources, const DiscoverySettings& settings,
            Hooks hooks);
  ~Discovery();

 private:
  struct File {
    std::vector<WorkerAddress> entries;  // last good
    std::string error;                   // last told
  };
  struct Name {
    std::vector<std::string> addresses;  // last good
    std::string error;
    absl::Time due = absl::InfinitePast();
    absl::Duration first_retry = absl::Milliseconds(100);  // doubled each time
  };

  void Run();
  void ReadFiles();
  std::vector<WorkerAddress> Entries() const;
  void AskNames(const std::vector<WorkerAddress>& entries);
  void TakeAnswer(const std::string& host, const absl::StatusOr<DnsAnswer>& answer);
  void Publish(const std::vector<WorkerAddress>& entries);

  const DiscoverySettings settings_;
  const Hooks hooks_;

  // The thread's.
  std::vector<WorkerAddress> fixed_;
  std::map<std::string, File> files_;  // by path
  std::map<std::string, Name> names_;  // by host
  std::vector<std::string> published_;
  bool ever_published_ = false;

  StopSignal stop_;
  std::thread thread_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_WORKERS_DISCOVERY_H_
