#ifndef QWENSERVE_KERNELS_CUDA_SIMT_FIBER_H_
#define QWENSERVE_KERNELS_CUDA_SIMT_FIBER_H_

#include <cstddef>
#include <memory>
#include <vector>

namespace qwenserve::simt {

struct Context;

// Stacks that one OS thread switches between by itself: the threads of a block are such fibers,
// because they meet many thousand times and a switch of the system's threads costs a hundred times
// as much. Each stack has a page below it that must not be touched, so that overflow is a crash.
class FiberPool {
 public:
  // `run(argument)` may be called again and again on the same fiber: when it returns, the fiber is
  // back where Resume was called, and the next Resume calls it anew.
  using Run = void (*)(void* argument);

  FiberPool();
  ~FiberPool();
  FiberPool(const FiberPool&) = delete;
  FiberPool& operator=(const FiberPool&) = delete;

  // Makes sure that fibers 0 .. count-1 exist.
  void Reserve(int count);
  // Goes on with fiber `index`, from the pool's own stack, until it suspends or its run() returns.
  void Resume(int index, Run run, void* argument);
  // Called on a fiber: back to where Resume was called.
  void Suspend();
  // Called on a fiber: the same as Suspend and then Resume(index, ...), in one switch.
  void Pass(int index, Run run, void* argument);

 private:
  struct Fiber;
  static void Main(FiberPool* pool);
  Fiber* Ready(int index, Run run, void* argument);
  // `to_fiber` is null when `to` is the pool's own stack.
  void Switch(Context* from, const Fiber* to_fiber, Context* to);
  void Arrived(void* fake);

  struct Caller;
  std::unique_ptr<Caller> caller_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  Fiber* current_ = nullptr;
  [[maybe_unused]] bool came_from_caller_ = false;  // for the address sanitizer
};

}  // namespace qwenserve::simt

#endif  // QWENSERVE_KERNELS_CUDA_SIMT_FIBER_H_
