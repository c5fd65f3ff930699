#ifndef QWENSERVE_SERVICES_GATEWAY_ADDRESS_RESOLVER_H_
#define QWENSERVE_SERVICES_GATEWAY_ADDRESS_RESOLVER_H_

#include <functional>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace qwenserve {

// Turns a list of HOST:PORT into gRPC targets of single workers, and looks again every few
// seconds: a name may stand for many (a headless service) and change. A name that fails to
// resolve, or resolves to nothing, keeps its last good addresses: a sick DNS must not take the
// workers away. One thread, since resolving blocks.
class AddressResolver {
 public:
  // The addresses of one HOST:PORT as gRPC targets, such as "ipv4:10.0.0.1:50071".
  using Lookup = std::function<absl::StatusOr<std::vector<std::string>>(const std::string&)>;
  // All addresses, sorted; called from the resolver's thread, first of all at once, then after
  // each change.
  using OnAddresses = std::function<void(const std::vector<std::string>&)>;

  AddressResolver(std::vector<std::string> names, absl::Duration interval, Lookup lookup,
                  OnAddresses on_addresses);
  ~AddressResolver();

 private:
  void Run();
  std::vector<std::string> ResolveAll();

  const std::vector<std::string> names_;
  const absl::Duration interval_;
  const Lookup lookup_;
  const OnAddresses on_addresses_;
  std::map<std::string, std::vector<std::string>> last_good_;  // the thread's
  absl::Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// By the system's resolver. A "unix:" target is taken as it is.
absl::StatusOr<std::vector<std::string>> SystemLookup(const std::string& name);

// INVALID_ARGUMENT unless `name` is HOST:PORT, [V6]:PORT or unix:PATH.
absl::Status CheckAddress(const std::string& name);

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ADDRESS_RESOLVER_H_
