#ifndef QWENSERVE_TESTS_ENGINE_FUZZ_MUTATOR_H_
#define QWENSERVE_TESTS_ENGINE_FUZZ_MUTATOR_H_

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace qwenserve {

// Spoils good inputs at random, the same way for the same seed on every machine.
class Mutator {
 public:
  explicit Mutator(uint32_t seed) : random_(seed) {}

  // One to four changes: bits, bytes, stretches that are lost, doubled or moved, and `words`,
  // pieces that mean something in the format, put in anywhere or in the place of a number.
  std::string Mutate(std::string bytes, const std::vector<std::string>& words);

  // Below `bound`, which must not be 0.
  size_t Pick(size_t bound) { return random_() % bound; }

 private:
  void ChangeOnce(const std::vector<std::string>& words, std::string* bytes);
  void ReplaceNumber(const std::string& word, std::string* bytes);

  std::mt19937 random_;
};

// What spoils JSON: numbers at every edge, other types, broken and deep structure.
const std::vector<std::string>& JsonWords();

// Calls `round` with seeds 1, 2, ... until the test has failed, `rounds` times the environment's
// QWENSERVE_FUZZ_FACTOR (1 when unset). A failure tells its seed.
void ForEachSeed(int rounds, const std::function<void(uint32_t seed)>& round);

// Fails the test unless a refusal is one of those that a bad file gives: one short line.
void ExpectCleanError(const absl::Status& status);

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_ENGINE_FUZZ_MUTATOR_H_
