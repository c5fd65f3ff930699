// Loaded before a program (LD_PRELOAD), gives it a wall clock that can be put forward and back
// while it runs, as an operator or NTP does with the system's. The nanoseconds by which it is wrong
// are in the file that $QWENSERVE_TEST_CLOCK names, read anew each time. CLOCK_MONOTONIC stays what
// it is.
//
// As in the kernel, a wait that ends at a time of day follows the clock while it lasts: put back by
// an hour, it takes an hour longer. Such waits are what Abseil's and pthread's timed ones may be
// made of.

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

namespace {

constexpr int64_t kSecond = 1'000'000'000;
// How long a wait may not notice that the clock was put.
constexpr int64_t kSlice = kSecond / 20;
// A time of day is later than this since 1970, no machine has run for so long.
constexpr int64_t kNoUptime = 1'000'000'000 * kSecond;

template <typename Function>
Function* Next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

using Syscall = long(long, ...);

Syscall* RealSyscall() {
  static Syscall* const real = Next<Syscall>("syscall");
  return real;
}

int64_t Offset() {
  static const volatile int64_t* const offset = [] {
    static const int64_t right = 0;
    const char* path = getenv("QWENSERVE_TEST_CLOCK");
    const int fd = path == nullptr ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return &right;
    void* page = mmap(nullptr, sizeof(int64_t), PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? &right : static_cast<const int64_t*>(page);
  }();
  return *offset;
}

int64_t Nanoseconds(const timespec& time) { return time.tv_sec * kSecond + time.tv_nsec; }

timespec ToTimespec(int64_t nanoseconds) {
  return {static_cast<time_t>(nanoseconds / kSecond), static_cast<long>(nanoseconds % kSecond)};
}

int RealTime(clockid_t clock, timespec* time) {
  return static_cast<int>(RealSyscall()(SYS_clock_gettime, clock, time));
}

int64_t TrueNow() {
  timespec now;
  RealTime(CLOCK_REALTIME, &now);
  return Nanoseconds(now);
}

// The true time of day until which to wait next for `wanted` of the false clock; `last`: that is
// all.
timespec SliceEnd(const timespec& wanted, bool* last) {
  const int64_t end = Nanoseconds(wanted) - Offset(), slice = TrueNow() + kSlice;
  *last = end <= slice;
  return ToTimespec(*last ? (end > 0 ? end : 0) : slice);
}

}  // namespace

extern "C" {

int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const int result = RealTime(clock, time);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
    *time = ToTimespec(Nanoseconds(*time) + Offset());
  }
  return result;
}

int gettimeofday(timeval* time, void*) noexcept {
  const int64_t now = TrueNow() + Offset();
  *time = {static_cast<time_t>(now / kSecond), static_cast<suseconds_t>(now % kSecond / 1000)};
  return 0;
}

time_t time(time_t* out) noexcept {
  const time_t now = static_cast<time_t>((TrueNow() + Offset()) / kSecond);
  if (out != nullptr) *out = now;
  return now;
}

long syscall(long number, ...) noexcept {
  va_list list;
  va_start(list, number);
  long a[6];
  for (long& argument : a) argument = va_arg(list, long);
  va_end(list);
  const auto* until = reinterpret_cast<const timespec*>(a[3]);
  const bool of_day = number == SYS_futex && until != nullptr &&
                      (a[1] & FUTEX_CLOCK_REALTIME) != 0 &&
                      (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET;
  if (!of_day) return RealSyscall()(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  for (bool last = false;;) {
    const timespec end = SliceEnd(*until, &last);
    const long result = RealSyscall()(number, a[0], a[1], a[2], &end, a[4], a[5]);
    if (result == 0 || errno != ETIMEDOUT || last) return result;
  }
}

int pthread_cond_timedwait(pthread_cond_t* condition, pthread_mutex_t* mutex,
                           const timespec* until) {
  using Wait = int(pthread_cond_t*, pthread_mutex_t*, const timespec*);
  static Wait* const real = Next<Wait>("pthread_cond_timedwait");
  if (Nanoseconds(*until) < kNoUptime) return real(condition, mutex, until);
  bool last = false;
  const timespec end = SliceEnd(*until, &last);
  const int result = real(condition, mutex, &end);
  return result == ETIMEDOUT && !last ? 0 : result;  // it may have been woken for no reason
}

int pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                           const timespec* until) {
  using Wait = int(pthread_cond_t*, pthread_mutex_t*, clockid_t, const timespec*);
  static Wait* const real = Next<Wait>("pthread_cond_clockwait");
  if (clock == CLOCK_REALTIME) return pthread_cond_timedwait(condition, mutex, until);
  return real(condition, mutex, clock, until);
}

}  // extern "C"
