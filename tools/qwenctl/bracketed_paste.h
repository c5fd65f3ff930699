#ifndef QWENSERVE_TOOLS_QWENCTL_BRACKETED_PASTE_H_
#define QWENSERVE_TOOLS_QWENCTL_BRACKETED_PASTE_H_

namespace qwenserve {

// While one lives, what is pasted into the line editor (libedit) is inserted with its line ends
// rather than sent line by line: the terminal marks where it begins and ends (xterm's mode 2004).
// Nothing happens where standard output is no terminal that knows such sequences.
class BracketedPaste {
 public:
  BracketedPaste();
  ~BracketedPaste();
  BracketedPaste(const BracketedPaste&) = delete;
  BracketedPaste& operator=(const BracketedPaste&) = delete;

  // Once, after rl_initialize().
  static void Bind();

 private:
  const bool on_;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_BRACKETED_PASTE_H_
