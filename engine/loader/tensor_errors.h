#ifndef QWENSERVE_ENGINE_LOADER_TENSOR_ERRORS_H_
#define QWENSERVE_ENGINE_LOADER_TENSOR_ERRORS_H_

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/json_reader.h"
#include "engine/loader/checkpoint.h"

namespace qwenserve {

// "FILE: tensor "NAME"", for messages.
inline std::string TensorPlace(const TensorRef& tensor) {
  return absl::StrCat(tensor.file, ": tensor \"", ShownText(tensor.name), "\"");
}

// INVALID_ARGUMENT naming file and tensor, then `what`.
template <typename... Parts>
absl::Status TensorError(const TensorRef& tensor, const Parts&... what) {
  return absl::InvalidArgumentError(absl::StrCat(TensorPlace(tensor), " ", what...));
}

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_TENSOR_ERRORS_H_
