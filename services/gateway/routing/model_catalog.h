#ifndef QWENSERVE_SERVICES_GATEWAY_ROUTING_MODEL_CATALOG_H_
#define QWENSERVE_SERVICES_GATEWAY_ROUTING_MODEL_CATALOG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "qwenserve/v1/generator.pb.h"
#include "qwenserve/v1/inference.pb.h"
#include "qwenserve/v1/tokenizer.pb.h"
#include "services/gateway/auth/authenticator.h"

namespace qwenserve {

// What is served, computed from what the workers say of themselves. A tokenizer and a generator
// belong together when model and tokenizer hash are equal; a generator whose hash no tokenizer
// has gets no work.

struct KnownTokenizer {
  v1::DescribeResponse description;
  bool ready = false;
};

struct KnownGenerator {
  v1::ServerHello hello;
  bool ready = false;  // connected and not draining
};

// A model that can be used now.
struct ServedModel {
  std::string name;
  std::string tokenizer_hash;
  // The least of its replicas.
  uint32_t max_model_len = 0;
  // Ids are below this.
  uint32_t vocab_size = 0;
  bool chat_supported = false;
};

// NOT_FOUND, reason MODEL_NOT_FOUND, with ResourceInfo.
absl::Status ModelNotFound(const std::string& name);

// Immutable: one is made whenever a worker comes or goes, and read without locks.
//
// With a grant only its models are there: to whoever may not use a model it is not served, whatever
// state it is in, so that nobody can find out what others use. Null: all are there.
class ModelCatalog {
 public:
  // Workers that were known once are listed even while they are away, so that their model is
  // UNAVAILABLE rather than NOT_FOUND.
  ModelCatalog(const std::vector<KnownTokenizer>& tokenizers,
               const std::vector<KnownGenerator>& generators);

  // The model that a request means; an empty `name` means the only one. NOT_FOUND for another
  // name, with ResourceInfo; INVALID_ARGUMENT when an empty name is ambiguous; UNAVAILABLE, with
  // RetryInfo, when its workers are not there.
  absl::StatusOr<ServedModel> Resolve(const std::string& name,
                                      const KeyGrant* grant = nullptr) const;
  // The same for work that needs no generator; max_model_len is 0 when there is none.
  absl::StatusOr<ServedModel> ResolveForText(const std::string& name,
                                             const KeyGrant* grant = nullptr) const;

  const std::vector<v1::Model>& models() const { return models_; }
  // As Resolve, but a model without workers is found too.
  absl::StatusOr<v1::Model> Find(const std::string& name, const KeyGrant* grant = nullptr) const;

  // Some model can be used.
  bool AnyServed() const;

 private:
  struct Entry {
    ServedModel served;
    bool tokenizer_ready = false;
    bool generator_ready = false;  // with a tokenizer of the same hash
    bool hash_mismatch = false;    // both are there, but do not fit
  };

  absl::StatusOr<const Entry*> FindEntry(const std::string& name, const KeyGrant* grant) const;

  std::vector<Entry> entries_;     // by name
  std::vector<v1::Model> models_;  // the same order
};

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_GATEWAY_ROUTING_MODEL_CATALOG_H_
