#ifndef QWENSERVE_TESTS_SERVICES_GATEWAY_CALL_ONE_MODEL_CATALOG_H_
#define QWENSERVE_TESTS_SERVICES_GATEWAY_CALL_ONE_MODEL_CATALOG_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "services/gateway/routing/model_catalog.h"

namespace qwenserve {

// The model "m" with the tokenizer "h", ready.
inline std::shared_ptr<const ModelCatalog> OneModelCatalog(uint32_t max_model_len) {
  KnownTokenizer tokenizer;
  tokenizer.description.set_model("m");
  tokenizer.description.set_tokenizer_hash("h");
  tokenizer.ready = true;
  KnownGenerator generator;
  generator.hello.set_model("m");
  generator.hello.set_tokenizer_hash("h");
  generator.hello.mutable_limits()->set_max_model_len(max_model_len);
  generator.ready = true;
  return std::make_shared<const ModelCatalog>(std::vector{tokenizer}, std::vector{generator});
}

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_SERVICES_GATEWAY_CALL_ONE_MODEL_CATALOG_H_
