#ifndef QWENSERVE_SERVICES_COMMON_TLS_TLS_MATERIAL_H_
#define QWENSERVE_SERVICES_COMMON_TLS_TLS_MATERIAL_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/common/metrics/metrics.h"
#include "services/common/net/unique_fd.h"
#include "services/common/watched_files.h"

namespace qwenserve {

// Paths of PEM files, as Kubernetes mounts them.
struct TlsFiles {
  std::string cert;  // ours, then those that signed it; with `key`, or both empty
  std::string key;
  std::string ca;  // who must have signed the peer's; empty: see the owner
  // One of these must be a DNS name or URI among the names of the peer's certificate; empty: any.
  std::vector<std::string> peer_names;

  bool enabled() const { return !cert.empty() || !ca.empty(); }
};

// When the certificate ends. INVALID_ARGUMENT unless `cert` begins with a certificate that is valid
// at `now` and `key` is its private key.
absl::StatusOr<absl::Time> CheckKeyPair(const std::string& cert, const std::string& key,
                                        absl::Time now);
// INVALID_ARGUMENT unless there is at least one certificate and nothing malformed.
absl::Status CheckAuthorities(const std::string& pem);

// A file without a name that only this process sees: secrets in it never reach a disk and end with
// the process. Its path stays the same; its content is replaced in one step.
class MemoryFile {
 public:
  static absl::StatusOr<MemoryFile> Create(const std::string& text);
  std::string path() const;
  absl::Status Replace(const std::string& text);

 private:
  UniqueFd fd_;
  int64_t version_ = 0;
};

// Certificates of a process, always good ones: files are checked before they are used, and those
// that are replaced by bad ones stay in force as they were. gRPC 1.51 by itself would refuse every
// handshake after a bad pair.
class TlsMaterial {
 public:
  // `name`: label of the metrics, tls or worker_tls. Errors name the file.
  static absl::StatusOr<std::unique_ptr<TlsMaterial>> Load(const TlsFiles& files,
                                                           const std::string& name,
                                                           absl::Duration interval,
                                                           Metrics& metrics);

  const TlsFiles& files() const { return files_; }
  // Key and certificates in one file, so that they are replaced together; empty without them.
  std::string pair_path() const { return has_pair() ? pair_->path() : ""; }
  std::string ca_path() const { return has_ca() ? ca_->path() : ""; }
  bool has_pair() const { return !files_.cert.empty(); }
  bool has_ca() const { return !files_.ca.empty(); }

  // Grows with every reload, for users that copy the files' content.
  uint64_t version() const { return version_; }

 private:
  TlsMaterial(TlsFiles files, const std::string& name, Metrics& metrics);
  absl::Status Reload();
  absl::Status Take();

  const TlsFiles files_;
  TlsMetrics metrics_;
  std::unique_ptr<MemoryFile> pair_;
  std::unique_ptr<MemoryFile> ca_;
  std::atomic<uint64_t> version_{0};
  std::unique_ptr<WatchedFiles> watch_;  // last: it stops first
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_TLS_TLS_MATERIAL_H_
