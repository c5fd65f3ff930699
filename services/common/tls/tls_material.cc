#include "services/common/tls/tls_material.h"

#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

template <typename T, void (*kFree)(T*)>
struct Freer {
  void operator()(T* object) const { kFree(object); }
};
using Certificate = std::unique_ptr<X509, Freer<X509, X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY, EVP_PKEY_free>>;
using Bio = std::unique_ptr<BIO, Freer<BIO, BIO_free_all>>;

Bio Reader(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

// Never asks at the terminal.
int NoPassword(char*, int, int, void*) { return 0; }

absl::StatusOr<absl::Time> ToTime(const ASN1_TIME* time) {
  tm parts{};
  if (time == nullptr || ASN1_TIME_to_tm(time, &parts) != 1) {
    return absl::InvalidArgumentError("has no valid period");
  }
  return absl::FromTM(parts, absl::UTCTimeZone());
}

std::string Shown(absl::Time time) {
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", time, absl::UTCTimeZone());
}

absl::Status Prefixed(const std::string& path, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

}  // namespace

absl::StatusOr<absl::Time> CheckKeyPair(const std::string& cert, const std::string& key,
                                        absl::Time now) {
  ERR_clear_error();
  const Certificate certificate(
      PEM_read_bio_X509_AUX(Reader(cert).get(), nullptr, NoPassword, nullptr));
  if (certificate == nullptr) return absl::InvalidArgumentError("holds no certificate in PEM");
  QS_RETURN_IF_ERROR(CheckAuthorities(cert));
  const PrivateKey secret(PEM_read_bio_PrivateKey(Reader(key).get(), nullptr, NoPassword, nullptr));
  if (secret == nullptr) return absl::InvalidArgumentError("its key is no unencrypted key in PEM");
  if (X509_check_private_key(certificate.get(), secret.get()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError("its key belongs to another certificate");
  }
  QS_ASSIGN_OR_RETURN(const absl::Time begin, ToTime(X509_get0_notBefore(certificate.get())));
  QS_ASSIGN_OR_RETURN(const absl::Time end, ToTime(X509_get0_notAfter(certificate.get())));
  if (now >= end) return absl::InvalidArgumentError(absl::StrCat("expired at ", Shown(end)));
  if (now < begin) {
    return absl::InvalidArgumentError(absl::StrCat("is valid only from ", Shown(begin)));
  }
  return end;
}

absl::Status CheckAuthorities(const std::string& pem) {
  ERR_clear_error();
  const Bio bio = Reader(pem);
  int count = 0;
  while (Certificate(PEM_read_bio_X509_AUX(bio.get(), nullptr, NoPassword, nullptr)) != nullptr) {
    ++count;
  }
  const unsigned long error = ERR_peek_last_error();  // NOLINT: the library's type
  ERR_clear_error();
  const bool at_end =
      ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
  if (count == 0 || !at_end) {
    return absl::InvalidArgumentError(
        absl::StrCat("holds something else than certificates in PEM after ", count, " of them"));
  }
  return absl::OkStatus();
}

absl::StatusOr<MemoryFile> MemoryFile::Create(const std::string& text) {
  MemoryFile file;
  QS_RETURN_IF_ERROR(file.Replace(text));
  return file;
}

std::string MemoryFile::path() const { return absl::StrCat("/proc/self/fd/", fd_.get()); }

absl::Status MemoryFile::Replace(const std::string& text) {
  UniqueFd fresh(memfd_create("tls", MFD_CLOEXEC));
  if (!fresh.ok() ||
      write(fresh.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return absl::UnavailableError(absl::StrCat("no memory file: ", std::strerror(errno)));
  }
  // A reader tells old from new by the time, in whole seconds.
  const timespec times[2] = {{++version_, 0}, {version_, 0}};
  futimens(fresh.get(), times);
  if (!fd_.ok()) {
    fd_ = std::move(fresh);
  } else if (dup3(fresh.get(), fd_.get(), O_CLOEXEC) < 0) {
    return absl::UnavailableError(absl::StrCat("no memory file: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

TlsMaterial::TlsMaterial(TlsFiles files, const std::string& name, Metrics& metrics)
    : files_(std::move(files)), metrics_(metrics, name) {}

absl::StatusOr<std::unique_ptr<TlsMaterial>> TlsMaterial::Load(const TlsFiles& files,
                                                               const std::string& name,
                                                               absl::Duration interval,
                                                               Metrics& metrics) {
  if (files.cert.empty() != files.key.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": a certificate and its key are needed, not one of them"));
  }
  std::unique_ptr<TlsMaterial> material(new TlsMaterial(files, name, metrics));
  TlsMaterial* raw = material.get();
  std::vector<std::string> paths;
  for (const std::string& path : {files.cert, files.key, files.ca}) {
    if (!path.empty()) paths.push_back(path);
  }
  auto watch = std::make_unique<WatchedFiles>("certificates (" + name + ")", paths, interval,
                                              [raw] { return raw->Reload(); });
  QS_RETURN_IF_ERROR(raw->Reload());
  material->watch_ = std::move(watch);
  return material;
}

absl::Status TlsMaterial::Reload() {
  const absl::Status status = Take();
  (status.ok() ? metrics_.reloads_ok : metrics_.reloads_failed).Increment();
  return status;
}

absl::Status TlsMaterial::Take() {
  // All are checked before any is used.
  std::string pair, ca;
  absl::Time end = absl::InfiniteFuture();
  if (has_pair()) {
    QS_ASSIGN_OR_RETURN(const std::string cert, ReadSmallFile(files_.cert, kMaxFileBytes));
    QS_ASSIGN_OR_RETURN(const std::string key, ReadSmallFile(files_.key, kMaxFileBytes));
    const auto checked = CheckKeyPair(cert, key, absl::Now());
    QS_RETURN_IF_ERROR(Prefixed(files_.cert, checked.status()));
    end = *checked;
    pair = absl::StrCat(key, "\n", cert);
  }
  if (has_ca()) {
    QS_ASSIGN_OR_RETURN(ca, ReadSmallFile(files_.ca, kMaxFileBytes));
    QS_RETURN_IF_ERROR(Prefixed(files_.ca, CheckAuthorities(ca)));
  }
  auto put = [](const std::string& text, std::unique_ptr<MemoryFile>* file) -> absl::Status {
    if (*file != nullptr) return (*file)->Replace(text);
    QS_ASSIGN_OR_RETURN(MemoryFile fresh, MemoryFile::Create(text));
    *file = std::make_unique<MemoryFile>(std::move(fresh));
    return absl::OkStatus();
  };
  if (has_ca()) QS_RETURN_IF_ERROR(put(ca, &ca_));
  if (has_pair()) {
    QS_RETURN_IF_ERROR(put(pair, &pair_));
    metrics_.not_after.Set(static_cast<double>(absl::ToUnixSeconds(end)));
  }
  ++version_;
  return absl::OkStatus();
}

}  // namespace qwenserve
