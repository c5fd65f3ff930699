#include "services/gateway/workers/discovery.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/base/status_macros.h"
#include "services/common/clock.h"
#include "spdlog/spdlog.h"

namespace qwenserve {
namespace {

constexpr size_t kMaxListBytes = 1 << 20;

absl::StatusOr<std::vector<WorkerAddress>> ReadList(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError("cannot be opened");
  std::string text(kMaxListBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return absl::UnavailableError("cannot be read");
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMaxListBytes) {
    return absl::InvalidArgumentError(absl::StrCat("is larger than ", kMaxListBytes, " bytes"));
  }
  return ParseWorkerList(text);
}

}  // namespace

Discovery::Discovery(const std::vector<std::string>& sources, const DiscoverySettings& settings,
                     Hooks hooks)
    : settings_(settings), hooks_(std::move(hooks)) {
  for (const std::string& source : sources) {
    if (std::optional<std::string> path = FileOfSource(source)) {
      files_[*path];
    } else if (absl::StatusOr<WorkerAddress> address = ParseWorkerAddress(source); address.ok()) {
      fixed_.push_back(*std::move(address));
    }
  }
  thread_ = std::thread([this] { Run(); });
}

Discovery::~Discovery() {
  stop_.Stop();
  thread_.join();
}

void Discovery::Run() {
  while (true) {
    ReadFiles();
    const std::vector<WorkerAddress> entries = Entries();
    Publish(entries);
    AskNames(entries);
    Publish(entries);
    absl::Duration wait = files_.empty() ? settings_.max_ttl : settings_.file_interval;
    for (const auto& [host, name] : names_) wait = std::min(wait, name.due - MonotonicNow());
    if (stop_.StoppedWithin(wait)) return;
  }
}

void Discovery::ReadFiles() {
  for (auto& [path, file] : files_) {
    absl::StatusOr<std::vector<WorkerAddress>> entries = ReadList(path);
    const std::string error(entries.status().message());
    if (entries.ok()) {
      file.entries = *std::move(entries);
      if (!file.error.empty()) spdlog::info("list of workers {} is good again", path);
    } else {
      hooks_.on_file_failure();
      if (error != file.error) {
        spdlog::warn("list of workers {} {}; its last {} entries stay", path, error,
                     file.entries.size());
      }
    }
    file.error = error;
  }
}

std::vector<WorkerAddress> Discovery::Entries() const {
  std::vector<WorkerAddress> entries = fixed_;
  for (const auto& [path, file] : files_) {
    entries.insert(entries.end(), file.entries.begin(), file.entries.end());
  }
  return entries;
}

void Discovery::AskNames(const std::vector<WorkerAddress>& entries) {
  std::set<std::string> used;
  for (const WorkerAddress& entry : entries) {
    if (entry.target.empty()) used.insert(entry.host);
  }
  for (auto it = names_.begin(); it != names_.end();) {
    it = used.count(it->first) > 0 ? std::next(it) : names_.erase(it);
  }
  std::vector<std::string> due;
  const absl::Time now = MonotonicNow();
  for (const std::string& host : used) {
    if (names_[host].due <= now) due.push_back(host);
  }
  const auto answers = LookUp(due, settings_.dns, [this] { return stop_.stopped(); });
  for (size_t i = 0; i < due.size(); ++i) TakeAnswer(due[i], answers[i]);
}

void Discovery::TakeAnswer(const std::string& host, const absl::StatusOr<DnsAnswer>& answer) {
  if (absl::IsCancelled(answer.status())) return;
  Name& name = names_[host];
  const std::string error(answer.status().message());
  absl::Duration ttl = settings_.min_ttl;
  if (answer.ok()) {
    name.addresses = answer->addresses;
    ttl = std::clamp(answer->ttl, settings_.min_ttl, settings_.max_ttl);
    if (!name.error.empty()) spdlog::info("{} resolves again", host);
  } else {
    hooks_.on_dns_failure();
    if (error != name.error) {
      spdlog::warn("{} does not resolve ({}); its last {} addresses stay", host, error,
                   name.addresses.size());
    }
    if (name.addresses.empty()) {
      ttl = std::min(ttl, name.first_retry);
      name.first_retry *= 2;
    }
  }
  name.error = error;
  name.due = MonotonicNow() + ttl;
}

void Discovery::Publish(const std::vector<WorkerAddress>& entries) {
  std::set<std::string> all;
  for (const WorkerAddress& entry : entries) {
    if (!entry.target.empty()) {
      all.insert(entry.target);
      continue;
    }
    auto found = names_.find(entry.host);
    if (found == names_.end()) continue;
    for (const std::string& ip : found->second.addresses) {
      if (std::optional<std::string> target = NumericTarget(ip, entry.port)) all.insert(*target);
    }
  }
  std::vector<std::string> targets(all.begin(), all.end());
  if (std::exchange(ever_published_, true) && targets == published_) return;
  published_ = targets;
  hooks_.on_targets(targets);
}

}  // namespace qwenserve
