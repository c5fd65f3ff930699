// Tells the thread sanitizer about Abseil's locks. The distribution's Abseil is not instrumented,
// so that every datum under an absl::Mutex would look like a race. These definitions come before
// those of the shared library, which they call; gRPC's locks are Abseil's too. Linked into every
// program when QS_SANITIZE is "thread".
//
// Whoever unlocks evaluates the conditions of those who wait, in the middle of unlocking and so
// outside of what is told here: reads are not looked at meanwhile.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "absl/base/config.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}

#define QS_STRING(x) #x
#define QS_NAME_OF(x) QS_STRING(x)

namespace {

// A mangled name from behind "absl" and its inline namespace on; "K" before it for a const
// function.
template <size_t kSize>
struct Mangled {
  constexpr Mangled(const char (&text)[kSize]) { std::copy_n(text, kSize, value); }
  char value[kSize];
};

// The library's own.
template <typename Function>
Function* Find(const char* suffix) {
  const char* space = QS_NAME_OF(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const bool is_const = suffix[0] == 'K';
  char name[256];
  std::snprintf(name, sizeof(name), "_ZN%s4absl%zu%s%s", is_const ? "K" : "", std::strlen(space),
                space, suffix + is_const);
  void* const found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) {
    std::fprintf(stderr, "%s: Abseil has no %s\n", __FILE__, name);
    std::abort();
  }
  return reinterpret_cast<Function*>(found);
}

template <Mangled kSuffix, typename Result, typename... Args>
Result Call(Args... args) {
  static auto* const next = Find<Result(Args...)>(kSuffix.value);
  struct Unlooked {
    Unlooked() { AnnotateIgnoreReadsBegin(__FILE__, __LINE__); }
    ~Unlooked() { AnnotateIgnoreReadsEnd(__FILE__, __LINE__); }
  } unlooked;
  return next(args...);
}

struct Acquisition {
  ~Acquisition() { __tsan_acquire(const_cast<void*>(lock)); }
  const void* lock;
};

template <Mangled kSuffix, typename Result = void, typename Object, typename... Args>
Result Acquire(Object* lock, Args... args) {
  Acquisition at_the_end{lock};
  return Call<kSuffix, Result>(lock, args...);
}

template <Mangled kSuffix, typename Object>
void Release(Object* lock) {
  __tsan_release(lock);
  Call<kSuffix, void>(lock);
}

template <Mangled kSuffix, typename Result = void, typename... Args>
Result Wait(absl::Mutex* mutex, Args... args) {
  __tsan_release(mutex);
  return Acquire<kSuffix, Result>(mutex, args...);
}

template <Mangled kSuffix, typename Result = void, typename... Args>
Result WaitAt(absl::CondVar* variable, absl::Mutex* mutex, Args... args) {
  __tsan_release(mutex);
  Acquisition at_the_end{mutex};
  return Call<kSuffix, Result>(variable, mutex, args...);
}

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

#define QS_CONDITION "ERKNS0_9ConditionE"
#define QS_CONDITION_IN "ERKNS0_9ConditionENS0_8DurationE"
#define QS_CONDITION_BY "ERKNS0_9ConditionENS0_4TimeE"

void Mutex::Lock() { Acquire<"5Mutex4LockEv">(this); }
void Mutex::Unlock() { Release<"5Mutex6UnlockEv">(this); }
bool Mutex::TryLock() { return Acquire<"5Mutex7TryLockEv", bool>(this); }
void Mutex::ReaderLock() { Acquire<"5Mutex10ReaderLockEv">(this); }
void Mutex::ReaderUnlock() { Release<"5Mutex12ReaderUnlockEv">(this); }
bool Mutex::ReaderTryLock() { return Acquire<"5Mutex13ReaderTryLockEv", bool>(this); }
void Mutex::LockWhen(const Condition& condition) {
  Acquire<"5Mutex8LockWhen" QS_CONDITION>(this, &condition);
}
void Mutex::ReaderLockWhen(const Condition& condition) {
  Acquire<"5Mutex14ReaderLockWhen" QS_CONDITION>(this, &condition);
}
bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  return Acquire<"5Mutex19LockWhenWithTimeout" QS_CONDITION_IN, bool>(this, &condition, timeout);
}
bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  return Acquire<"5Mutex20LockWhenWithDeadline" QS_CONDITION_BY, bool>(this, &condition, deadline);
}
bool Mutex::ReaderLockWhenWithTimeout(const Condition& condition, Duration timeout) {
  return Acquire<"5Mutex25ReaderLockWhenWithTimeout" QS_CONDITION_IN, bool>(this, &condition,
                                                                            timeout);
}
bool Mutex::ReaderLockWhenWithDeadline(const Condition& condition, Time deadline) {
  return Acquire<"5Mutex26ReaderLockWhenWithDeadline" QS_CONDITION_BY, bool>(this, &condition,
                                                                             deadline);
}
void Mutex::Await(const Condition& condition) {
  Wait<"5Mutex5Await" QS_CONDITION>(this, &condition);
}
bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  return Wait<"5Mutex16AwaitWithTimeout" QS_CONDITION_IN, bool>(this, &condition, timeout);
}
bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  return Wait<"5Mutex17AwaitWithDeadline" QS_CONDITION_BY, bool>(this, &condition, deadline);
}

void CondVar::Wait(Mutex* mutex) { WaitAt<"7CondVar4WaitEPNS0_5MutexE">(this, mutex); }
bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  return WaitAt<"7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE", bool>(this, mutex, timeout);
}
bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  return WaitAt<"7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE", bool>(this, mutex, deadline);
}

void Notification::Notify() { Release<"12Notification6NotifyEv">(this); }
void Notification::WaitForNotification() const {
  Acquire<"K12Notification19WaitForNotificationEv">(this);
}
bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  return Acquire<"K12Notification30WaitForNotificationWithTimeoutENS0_8DurationE", bool>(this,
                                                                                         timeout);
}
bool Notification::WaitForNotificationWithDeadline(Time deadline) const {
  return Acquire<"K12Notification31WaitForNotificationWithDeadlineENS0_4TimeE", bool>(this,
                                                                                      deadline);
}

ABSL_NAMESPACE_END
}  // namespace absl
