#ifndef QWENSERVE_TESTS_PARITY_GOLDEN_H_
#define QWENSERVE_TESTS_PARITY_GOLDEN_H_

#include <cstdint>
#include <string>
#include <vector>

namespace qwenserve {

// What make_goldens.py wrote beside a checkpoint: a token sequence and, for one or several lengths
// of prompt, the logits at some positions.
struct Golden {
  struct Case {
    int64_t prompt_tokens = 0;
    std::vector<std::vector<float>> logits;  // [positions.size()][vocab_size]
  };
  std::string dir;
  std::vector<int32_t> ids;
  std::vector<int32_t> positions;
  std::vector<Case> cases;
  std::vector<Case> int8_cases;  // with the first generation's own int8 KV cache
};

// Names of the models under tests/parity/data.
std::vector<std::string> GoldenModels();
// Fails the test when the files are not there or not as expected.
Golden ReadGolden(const std::string& model);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_PARITY_GOLDEN_H_
