#include "kernels/cuda/simt/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>

#include "kernels/check.h"

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes)
#endif

// qs_simt_switch(save, load): pushes the registers that a callee must keep, stores the stack
// pointer in *save, takes `load` for it and pops the same. It leaves by a jump: the processor
// guesses where a return goes from the calls before it, which here were another fiber's.
#if defined(__x86_64__)
extern "C" void qs_simt_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.type qs_simt_switch,@function
qs_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx
.size qs_simt_switch, .-qs_simt_switch
)");
#elif defined(__aarch64__)
extern "C" void qs_simt_switch(void** save, void* load);
asm(R"(
.text
.p2align 4
.type qs_simt_switch,%function
qs_simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size qs_simt_switch, .-qs_simt_switch
)");
#endif

namespace qwenserve::simt {
namespace {

constexpr size_t kStackBytes = 256 << 10;

// Stacks begin at different places of a page: at the same place, the lines that fibers use would
// all be in the same few sets of the cache.
constexpr size_t kColours = 16;
constexpr size_t kColourBytes = 4096 / kColours;

// A new fiber takes its pool from here: the switch itself hands nothing over.
thread_local FiberPool* starting_pool = nullptr;

}  // namespace

#if defined(__x86_64__) || defined(__aarch64__)
struct Context {
  void* stack_pointer = nullptr;

  static void Switch(Context* from, Context* to) {
    qs_simt_switch(&from->stack_pointer, to->stack_pointer);
  }
  void Prepare(char* stack, size_t bytes, void (*entry)()) {
    auto* top = reinterpret_cast<uintptr_t*>(reinterpret_cast<uintptr_t>(stack + bytes) & ~15ull);
#if defined(__x86_64__)
    // At its entry a function finds its return address where the stack is 8 off a multiple of 16.
    *--top = 0;
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < 6; ++i) *--top = 0;
#else
    for (int i = 0; i < 20; ++i) *--top = 0;
    top[11] = reinterpret_cast<uintptr_t>(entry);  // x30
#endif
    stack_pointer = top;
  }
};
#else
struct Context {
  ucontext_t context;

  static void Switch(Context* from, Context* to) { swapcontext(&from->context, &to->context); }
  void Prepare(char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = bytes;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
  }
};
#endif

struct FiberPool::Caller {
  Context context;
  const void* stack = nullptr;  // the address sanitizer's view of the pool's own stack
  size_t stack_bytes = 0;
};

struct FiberPool::Fiber {
  Fiber() {
    page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* mapped = mmap(nullptr, page + kStackBytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    QS_CHECK(mapped != MAP_FAILED);
    memory = static_cast<char*>(mapped);
    QS_CHECK(mprotect(memory, page, PROT_NONE) == 0);
  }
  ~Fiber() {
    // The frames on it never return, and the next to get these pages are not to find their marks.
    ASAN_UNPOISON_MEMORY_REGION(stack(), kStackBytes);
    munmap(memory, page + kStackBytes);
  }
  char* stack() const { return memory + page; }

  size_t page = 0;
  char* memory = nullptr;
  Context context;
  bool started = false;
  Run run = nullptr;  // null: idle, to be given the next run
  void* argument = nullptr;
};

FiberPool::FiberPool() : caller_(std::make_unique<Caller>()) {}
FiberPool::~FiberPool() = default;

void FiberPool::Reserve(int count) {
  while (fibers_.size() < static_cast<size_t>(count)) {
    fibers_.push_back(std::make_unique<Fiber>());
  }
}

#ifdef __SANITIZE_ADDRESS__
// The address sanitizer is told of each switch: which stack it goes to and, after it, which it came
// from; the pool's own stack is learned on the way.
void FiberPool::Switch(Context* from, const Fiber* to_fiber, Context* to) {
  void* fake = nullptr;
  came_from_caller_ = from == &caller_->context;
  __sanitizer_start_switch_fiber(&fake, to_fiber ? to_fiber->stack() : caller_->stack,
                                 to_fiber ? kStackBytes : caller_->stack_bytes);
  Context::Switch(from, to);
  Arrived(fake);
}

void FiberPool::Arrived(void* fake) {
  const void* stack = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(fake, &stack, &bytes);
  if (!came_from_caller_) return;
  caller_->stack = stack;
  caller_->stack_bytes = bytes;
}
#else
void FiberPool::Switch(Context* from, const Fiber*, Context* to) { Context::Switch(from, to); }
void FiberPool::Arrived(void*) {}
#endif

void FiberPool::Main(FiberPool* pool) {
  pool->Arrived(nullptr);
  Fiber* fiber = pool->current_;
  for (;;) {
    fiber->run(fiber->argument);
    fiber->run = nullptr;
    pool->Switch(&fiber->context, nullptr, &pool->caller_->context);
  }
}

FiberPool::Fiber* FiberPool::Ready(int index, Run run, void* argument) {
  Fiber* fiber = fibers_[static_cast<size_t>(index)].get();
  if (fiber->run != nullptr) return fiber;
  fiber->run = run;
  fiber->argument = argument;
  if (!fiber->started) {
    fiber->started = true;
    starting_pool = this;
    const size_t colour = static_cast<size_t>(index) % kColours;
    fiber->context.Prepare(fiber->stack(), kStackBytes - colour * kColourBytes,
                           [] { Main(starting_pool); });
  }
  return fiber;
}

void FiberPool::Resume(int index, Run run, void* argument) {
  current_ = Ready(index, run, argument);
  Switch(&caller_->context, current_, &current_->context);
}

void FiberPool::Suspend() { Switch(&current_->context, nullptr, &caller_->context); }

void FiberPool::Pass(int index, Run run, void* argument) {
  Fiber* from = current_;
  current_ = Ready(index, run, argument);
  Switch(&from->context, current_, &current_->context);
}

}  // namespace qwenserve::simt
