#ifndef QWENSERVE_SERVICES_GATEWAY_WORKERS_DNS_CLIENT_H_
#define QWENSERVE_SERVICES_GATEWAY_WORKERS_DNS_CLIENT_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace qwenserve {

struct DnsAnswer {
  std::vector<std::string> addresses;  // numeric, sorted; not empty
  absl::Duration ttl;                  // the least of all records
};

struct DnsSettings {
  // HOST:PORT or HOST, numeric; empty: the servers of /etc/resolv.conf.
  std::string server;
  // For the first answer of a server; each further try waits longer.
  absl::Duration timeout = absl::Seconds(1);
  int tries = 2;
};

// The A and AAAA records of all hosts, asked for at the same time with c-ares; /etc/hosts counts,
// search domains too, other sources of the system's resolver do not. Blocks until each has an
// answer, has failed (NOT_FOUND: there is no such name or it has no address; UNAVAILABLE: anything
// else), or `stop` says so (CANCELLED). Settings and files are read anew, so that a changed
// resolv.conf counts.
std::vector<absl::StatusOr<DnsAnswer>> LookUp(const std::vector<std::string>& hosts,
                                              const DnsSettings& settings,
                                              const std::function<bool()>& stop);

// INVALID_ARGUMENT unless c-ares takes it as a server.
absl::Status CheckDnsServer(const std::string& server);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_WORKERS_DNS_CLIENT_H_
