// A libnccl.so.2 that has all that is needed but can do nothing, without windows. Its version comes
// from the environment of the test.
#include <cstdlib>

extern "C" {

int ncclGetVersion(int* version) {
  const char* told = std::getenv("QWENSERVE_TEST_NCCL_VERSION");
  *version = told == nullptr ? 22105 : std::atoi(told);
  return 0;
}
const char* ncclGetErrorString(int) { return "a stub"; }
const char* ncclGetLastError(void*) { return ""; }
int ncclGetUniqueId(void*) { return 2; }
int ncclCommInitRankConfig() { return 2; }
int ncclCommGetAsyncError() { return 2; }
int ncclCommFinalize() { return 2; }
int ncclCommDestroy() { return 2; }
int ncclCommAbort() { return 2; }
int ncclGroupStart() { return 2; }
int ncclGroupEnd() { return 2; }
int ncclAllReduce() { return 2; }
int ncclAllGather() { return 2; }
int ncclSend() { return 2; }
int ncclRecv() { return 2; }

}  // extern "C"
