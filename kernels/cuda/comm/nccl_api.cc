#include "kernels/cuda/comm/nccl_api.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace qwenserve {
namespace {

constexpr char kFile[] = "libnccl.so.2";

absl::Status Missing(absl::string_view why) {
  return absl::FailedPreconditionError(absl::StrCat(
      "several GPUs need NCCL: ", why, "; install ", kFile, " ", NcclVersionName(kNcclLeastVersion),
      " or later (package libnccl2, or nvidia-nccl-cu13 of pip), or name its file or "
      "folder by --nccl-library"));
}

bool IsFolder(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// Where the library may be, in the order of trial.
std::vector<std::string> Candidates(const std::string& library) {
  if (library.empty()) return {kFile};
  if (!IsFolder(library)) return {library};
  return {absl::StrCat(library, "/", kFile), absl::StrCat(library, "/lib/", kFile),
          absl::StrCat(library, "/nvidia/nccl/lib/", kFile)};
}

class Symbols {
 public:
  explicit Symbols(void* handle) : handle_(handle) {}

  template <typename Function>
  void Find(const char* name, Function** function) {
    *function = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (*function == nullptr && missing_.empty()) missing_ = name;
  }
  const std::string& missing() const { return missing_; }

 private:
  void* handle_;
  std::string missing_;
};

// Only as a set: a library with some of them is treated as one without.
void FindWindows(void* handle, NcclApi* api) {
  NcclApi with = *api;
  Symbols symbols(handle);
  symbols.Find("ncclMemAlloc", &with.MemAlloc);
  symbols.Find("ncclMemFree", &with.MemFree);
  symbols.Find("ncclCommWindowRegister", &with.CommWindowRegister);
  symbols.Find("ncclCommWindowDeregister", &with.CommWindowDeregister);
  if (symbols.missing().empty()) *api = with;
}

absl::StatusOr<NcclApi> FindAll(void* handle, const std::string& path) {
  NcclApi api;
  Symbols symbols(handle);
  symbols.Find("ncclGetVersion", &api.GetVersion);
  symbols.Find("ncclGetErrorString", &api.GetErrorString);
  symbols.Find("ncclGetLastError", &api.GetLastError);
  symbols.Find("ncclGetUniqueId", &api.GetUniqueId);
  symbols.Find("ncclCommInitRankConfig", &api.CommInitRankConfig);
  symbols.Find("ncclCommGetAsyncError", &api.CommGetAsyncError);
  symbols.Find("ncclCommFinalize", &api.CommFinalize);
  symbols.Find("ncclCommDestroy", &api.CommDestroy);
  symbols.Find("ncclCommAbort", &api.CommAbort);
  symbols.Find("ncclGroupStart", &api.GroupStart);
  symbols.Find("ncclGroupEnd", &api.GroupEnd);
  symbols.Find("ncclAllReduce", &api.AllReduce);
  symbols.Find("ncclAllGather", &api.AllGather);
  symbols.Find("ncclSend", &api.Send);
  symbols.Find("ncclRecv", &api.Recv);
  if (!symbols.missing().empty()) {
    return Missing(absl::StrCat("\"", path, "\" has no ", symbols.missing()));
  }
  int version = 0;
  if (api.GetVersion(&version) != kNcclSuccess || version < kNcclLeastVersion) {
    return Missing(absl::StrCat("\"", path, "\" is version ", NcclVersionName(version)));
  }
  FindWindows(handle, &api);
  return api;
}

}  // namespace

std::string NcclVersionName(int version) {
  // Before 2.9 the code had fewer digits.
  const int unit = version < 10000 ? 1000 : 10000;
  return absl::StrCat(version / unit, ".", version % unit / 100, ".", version % 100);
}

absl::StatusOr<NcclApi> LoadNccl(const std::string& library) {
  std::string why;
  for (const std::string& path : Candidates(library)) {
    // Never closed: it has threads of its own.
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle != nullptr) return FindAll(handle, path);
    const char* error = dlerror();
    if (why.empty()) why = error == nullptr ? path : error;
  }
  return Missing(why);
}

}  // namespace qwenserve
