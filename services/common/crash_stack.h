#ifndef QWENSERVE_SERVICES_COMMON_CRASH_STACK_H_
#define QWENSERVE_SERVICES_COMMON_CRASH_STACK_H_

namespace qwenserve {

// From now on a crash (SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGTRAP) writes the stack of its
// thread to stderr as plain lines, with the names of functions where the program has its symbols,
// and then ends the process by the same signal as before, core dump included. What a stack says are
// addresses and names of code. Where somebody else handles these signals already, such as a
// sanitizer, it stays so.
void PrintStackOnCrash();

}  // namespace qwenserve

#endif  // QWENSERVE_SERVICES_COMMON_CRASH_STACK_H_
