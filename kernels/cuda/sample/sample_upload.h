#ifndef QWENSERVE_KERNELS_CUDA_SAMPLE_SAMPLE_UPLOAD_H_
#define QWENSERVE_KERNELS_CUDA_SAMPLE_SAMPLE_UPLOAD_H_

#include <cstdint>
#include <cstring>
#include <vector>

#include "absl/types/span.h"
#include "kernels/cuda/sample/context_counts.h"
#include "kernels/cuda/sample/sample_jobs.h"

namespace qwenserve {

// What the rows of one call ask for, as jobs and as one piece of memory to be copied to the device.
// The first jobs are those of log-probabilities. Jobs before num_early must be done, score
// included, before the edits of their rows are applied.
class SampleUpload {
 public:
  SampleUpload(absl::Span<const SampleRow> rows, int64_t vocab_size, ContextCounts* counts);

  // In bytes from the start of the upload; lists of SampleEdits are counted from there, too.
  size_t jobs_offset() const { return jobs_offset_; }
  size_t rows_offset() const { return rows_offset_; }
  size_t edits_offset() const { return edits_offset_; }
  size_t bytes() const { return words_.size() * sizeof(uint32_t); }
  const uint32_t* words() const { return words_.data(); }

  absl::Span<const SampleJob> jobs() const { return jobs_; }
  int num_early() const { return num_early_; }
  int num_scored() const { return num_scored_; }  // jobs of log-probabilities
  int num_selects() const { return num_selects_; }
  int64_t num_originals() const { return num_originals_; }

 private:
  SampleJob DrawJob(const SampleRow& row, int64_t vocab_size, int index);
  SampleJob LogprobsJob(const SampleRow& row, int index);
  void AddEdits(const SampleRow& row, int64_t vocab_size, ContextCounts* counts);
  // Appends and returns the offset in words.
  template <typename T>
  uint32_t Append(absl::Span<const T> items) {
    static_assert(sizeof(T) % sizeof(uint32_t) == 0);
    if (alignof(T) > sizeof(uint32_t) && words_.size() % 2 != 0) words_.push_back(0);
    const size_t at = words_.size(), bytes = items.size() * sizeof(T);
    words_.resize(at + bytes / sizeof(uint32_t));
    if (bytes > 0) std::memcpy(words_.data() + at, items.data(), bytes);
    return static_cast<uint32_t>(at);
  }

  std::vector<uint32_t> words_;
  std::vector<SampleJob> jobs_;
  std::vector<SampleRowPlan> rows_;
  std::vector<SampleEdits> edits_;
  size_t jobs_offset_ = 0, rows_offset_ = 0, edits_offset_ = 0;
  int num_early_ = 0, num_scored_ = 0, num_selects_ = 0;
  int64_t num_originals_ = 0;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_SAMPLE_SAMPLE_UPLOAD_H_
