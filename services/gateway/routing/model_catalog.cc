#include "services/gateway/routing/model_catalog.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/base/status_macros.h"
#include "google/rpc/error_details.pb.h"
#include "services/common/errors/error_details.h"

namespace qwenserve {
namespace {

struct Workers {
  std::vector<const KnownTokenizer*> tokenizers;
  std::vector<const KnownGenerator*> generators;
};

absl::Status Unavailable(const std::string& message, absl::string_view reason) {
  return WithRetryAfter(WithReason(absl::UnavailableError(message), reason), absl::Seconds(1));
}

// The hash of the ready tokenizers that most ready generators share; empty when there is none.
std::string CommonHash(const Workers& workers) {
  std::map<std::string, int> votes;
  for (const KnownTokenizer* tokenizer : workers.tokenizers) {
    if (tokenizer->ready) votes[tokenizer->description.tokenizer_hash()];
  }
  for (const KnownGenerator* generator : workers.generators) {
    auto found = votes.find(generator->hello.tokenizer_hash());
    if (generator->ready && found != votes.end()) ++found->second;
  }
  auto best = std::max_element(votes.begin(), votes.end(),
                               [](const auto& a, const auto& b) { return a.second < b.second; });
  return best == votes.end() ? "" : best->first;
}

// "cuda (NVIDIA H100, sm_90), weights int4, KV cache int8, tp 2".
std::string HeldAs(const v1::ServerHello& hello) {
  return absl::StrCat(hello.device(), ", weights ", hello.weight_format(), ", KV cache ",
                      hello.kv_format(), ", tp ", hello.tp_degree());
}

void Describe(const std::string& name, const Workers& workers, const std::string& hash,
              v1::Model* model) {
  model->set_id(name);
  std::set<std::string> fingerprints, held_as;
  for (const KnownGenerator* generator : workers.generators) {
    const v1::ServerHello& hello = generator->hello;
    model->set_family(hello.family());
    model->set_vocab_size(hello.vocab_size());
    *model->mutable_default_sampling() = hello.default_sampling();
    model->set_tokenizer_hash(hello.tokenizer_hash());
    if (!generator->ready || hello.tokenizer_hash() != hash) continue;
    model->set_ready_replicas(model->ready_replicas() + 1);
    const uint32_t length = hello.limits().max_model_len();
    if (model->max_model_len() == 0 || length < model->max_model_len()) {
      model->set_max_model_len(length);
    }
    held_as.insert(HeldAs(hello));
    if (!hello.numerics_fingerprint().empty()) fingerprints.insert(hello.numerics_fingerprint());
  }
  for (const std::string& fingerprint : fingerprints) model->add_fingerprints(fingerprint);
  for (const std::string& text : held_as) model->add_held_as(text);
  for (const KnownTokenizer* tokenizer : workers.tokenizers) {
    const v1::DescribeResponse& description = tokenizer->description;
    if (!hash.empty() && description.tokenizer_hash() != hash) continue;
    model->set_tokenizer_hash(description.tokenizer_hash());
    model->set_chat_template(description.chat_template());
    model->set_chat_supported(!description.chat_template().empty());
    if (model->vocab_size() == 0) model->set_vocab_size(description.vocab_size());
  }
}

}  // namespace

absl::Status ModelNotFound(const std::string& name) {
  // A client's text, which must not be more than trailers hold.
  const std::string shown = ShownText(name);
  absl::Status status = absl::NotFoundError(absl::StrCat("model '", shown, "' is not served here"));
  status = WithMetadata(WithReason(status, kReasonModelNotFound), "model", shown);
  google::rpc::ResourceInfo info;
  info.set_resource_type("model");
  info.set_resource_name(shown);
  status.SetPayload(absl::StrCat("type.googleapis.com/", info.descriptor()->full_name()),
                    absl::Cord(info.SerializeAsString()));
  return status;
}

ModelCatalog::ModelCatalog(const std::vector<KnownTokenizer>& tokenizers,
                           const std::vector<KnownGenerator>& generators) {
  std::map<std::string, Workers> by_name;
  for (const KnownTokenizer& tokenizer : tokenizers) {
    by_name[tokenizer.description.model()].tokenizers.push_back(&tokenizer);
  }
  for (const KnownGenerator& generator : generators) {
    by_name[generator.hello.model()].generators.push_back(&generator);
  }
  for (const auto& [name, workers] : by_name) {
    const std::string hash = CommonHash(workers);
    v1::Model& model = models_.emplace_back();
    Describe(name, workers, hash, &model);
    Entry entry;
    entry.served.name = name;
    entry.served.tokenizer_hash = hash;
    entry.served.max_model_len = model.max_model_len();
    entry.served.vocab_size = model.vocab_size();
    entry.served.chat_supported = model.chat_supported();
    entry.tokenizer_ready = !hash.empty();
    entry.generator_ready = model.ready_replicas() > 0;
    const bool any_generator =
        std::any_of(workers.generators.begin(), workers.generators.end(),
                    [](const KnownGenerator* generator) { return generator->ready; });
    entry.hash_mismatch = entry.tokenizer_ready && any_generator && !entry.generator_ready;
    entries_.push_back(std::move(entry));
  }
}

absl::StatusOr<const ModelCatalog::Entry*> ModelCatalog::FindEntry(const std::string& name,
                                                                   const KeyGrant* grant) const {
  if (entries_.empty()) {
    return Unavailable("no worker is connected yet", kReasonNoWorker);
  }
  const Entry* found = nullptr;
  size_t matches = 0;
  for (const Entry& entry : entries_) {
    const std::string& served = entry.served.name;
    if (grant != nullptr && !grant->MayUse(served)) continue;
    if (!name.empty() && served != name) continue;
    found = &entry;
    ++matches;
  }
  if (matches > 1) {
    return InvalidField("model",
                        absl::StrCat("is required, because ", matches, " models are served"));
  }
  if (found == nullptr) return ModelNotFound(name);
  return found;
}

absl::StatusOr<ServedModel> ModelCatalog::Resolve(const std::string& name,
                                                  const KeyGrant* grant) const {
  QS_ASSIGN_OR_RETURN(const Entry* entry, FindEntry(name, grant));
  if (entry->tokenizer_ready && entry->generator_ready) return entry->served;
  const std::string prefix = absl::StrCat("model '", entry->served.name, "': ");
  if (entry->hash_mismatch) {
    return Unavailable(prefix + "its generators and tokenizers have different vocabularies",
                       kReasonTokenizerMismatch);
  }
  return Unavailable(
      prefix + (entry->tokenizer_ready ? "no generator is ready" : "no tokenizer is ready"),
      kReasonNoWorker);
}

absl::StatusOr<ServedModel> ModelCatalog::ResolveForText(const std::string& name,
                                                         const KeyGrant* grant) const {
  QS_ASSIGN_OR_RETURN(const Entry* entry, FindEntry(name, grant));
  if (entry->tokenizer_ready) return entry->served;
  return Unavailable(absl::StrCat("model '", entry->served.name, "': no tokenizer is ready"),
                     kReasonNoWorker);
}

absl::StatusOr<v1::Model> ModelCatalog::Find(const std::string& name, const KeyGrant* grant) const {
  QS_ASSIGN_OR_RETURN(const Entry* entry, FindEntry(name, grant));
  return models_[entry - entries_.data()];
}

bool ModelCatalog::AnyServed() const {
  return std::any_of(entries_.begin(), entries_.end(), [](const Entry& entry) {
    return entry.tokenizer_ready && entry.generator_ready;
  });
}

}  // namespace qwenserve
