#ifndef QWENSERVE_SERVICES_COMMON_MODEL_NAME_H_
#define QWENSERVE_SERVICES_COMMON_MODEL_NAME_H_

#include <filesystem>
#include <string>
#include <system_error>

namespace qwenserve {

// `served` unless empty, else the name of the checkpoint's folder. Every process of a cluster must
// come to the same name, so all use this.
inline std::string ServedModelName(const std::string& served, const std::string& model_dir) {
  if (!served.empty()) return served;
  std::error_code error;
  std::filesystem::path path = std::filesystem::absolute(model_dir, error).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();  // a slash at the end
  return path.filename().string();
}

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_MODEL_NAME_H_
