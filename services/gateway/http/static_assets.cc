#include "services/gateway/http/static_assets.h"

namespace qwenserve {
namespace {

constexpr StaticAsset kAssets[] = {
    {"/", "text/plain; charset=utf-8",
     "qwenserve: POST /v1/chat/completions, POST /v1/completions, GET /v1/models, POST /tokenize, "
     "POST /detokenize, GET /health\n",
     ""},
};

}  // namespace

const StaticAsset* FindAsset(absl::string_view path) {
  for (const StaticAsset& asset : kAssets) {
    if (asset.path == path) return &asset;
  }
  return nullptr;
}

}  // namespace qwenserve
