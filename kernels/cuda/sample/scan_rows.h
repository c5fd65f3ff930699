#ifndef QWENSERVE_KERNELS_CUDA_SAMPLE_SCAN_ROWS_H_
#define QWENSERVE_KERNELS_CUDA_SAMPLE_SCAN_ROWS_H_

#include "kernels/cuda/sample/sample_math.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {  // for one .cu file

// Applies the edits of a row to the ids of this block's chunk, then finds its highest logit.
struct ScanRows {
  using Args = SampleArgs;
  static constexpr int kThreads = kSampleThreads;
  static constexpr int kMinBlocks = 4;

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    const int index = args.first_job + static_cast<int>(BlockIndex().y);
    const int chunk = static_cast<int>(BlockIndex().x);
    const SampleJob job = args.jobs[index];
    const int32_t begin = chunk * kSampleChunk;
    const int32_t left = args.vocab_size - begin;
    const int32_t count = left < kSampleChunk ? left : kSampleChunk;
    float* logits = LogitsOf(args, job) + begin;
    if (job.edits >= 0) Edit(args, args.edits[job.edits], begin, count, logits);
    if (job.select >= 0) Clear(args, job.select, chunk);

    uint64_t best = kNoRank;
    for (int32_t i = ThreadIndex(); i < count; i += kThreads) {
      const float logit = logits[i];
      uint64_t rank = kNoRank;
      if (IsNanOrPlusInfinity(logit)) {
        rank = kUnsoundRank;
      } else if (!IsMinusInfinity(logit)) {
        rank = RankOf(logit, begin + i);
      }
      best = rank > best ? rank : best;
    }
    best = BlockMax(best, reinterpret_cast<BlockScratch*>(SharedMemory()));
    if (ThreadIndex() == 0) args.best[static_cast<int64_t>(index) * args.chunks + chunk] = best;
  }

 private:
  // The chunks of a row share the zeroing of what measure adds to.
  QS_DEVICE static void Clear(const Args& args, int select, int chunk) {
    uint64_t* steps = args.steps + static_cast<int64_t>(select) * kSampleSteps;
    for (int i = chunk * kThreads + ThreadIndex(); i < kSampleSteps; i += args.chunks * kThreads) {
      steps[i] = 0;
    }
    if (chunk == 0 && ThreadIndex() == 0) args.found[select] = 0;
  }

  // In the order of kernels/README.md. An id is once in each list, so threads share a list.
  QS_DEVICE static void Edit(const Args& args, const SampleEdits& edits, int32_t begin,
                             int32_t count, float* logits) {
    const auto* biases = reinterpret_cast<const LogitBias*>(args.words + edits.biases);
    for (uint32_t i = ThreadIndex(); i < edits.num_biases; i += kThreads) {
      const uint32_t at = static_cast<uint32_t>(biases[i].id) - static_cast<uint32_t>(begin);
      if (at >= static_cast<uint32_t>(count)) continue;
      if (edits.originals >= 0) args.originals[edits.originals + i] = logits[at];
      logits[at] = logits[at] + biases[i].bias;
    }
    SyncThreads();
    Penalise(args, edits, begin, count, logits);
    SyncThreads();
    const auto* banned = reinterpret_cast<const int32_t*>(args.words + edits.banned);
    for (uint32_t i = ThreadIndex(); i < edits.num_banned; i += kThreads) {
      const uint32_t at = static_cast<uint32_t>(banned[i]) - static_cast<uint32_t>(begin);
      if (at < static_cast<uint32_t>(count)) logits[at] = BitsToFloat(0xff800000u);
    }
    if (edits.has_allowed != 0) {
      const uint32_t* allowed = args.words + edits.allowed + begin / 32;
      for (int32_t i = ThreadIndex(); i < count; i += kThreads) {
        if ((allowed[i / 32] >> (i % 32) & 1u) == 0) logits[i] = BitsToFloat(0xff800000u);
      }
    }
    SyncThreads();
  }

  // Adds one to the count of the id that the step before drew; if it is new, thread 0 has it.
  QS_DEVICE static void Penalise(const Args& args, const SampleEdits& edits, int32_t begin,
                                 int32_t count, float* logits) {
    const auto* context = reinterpret_cast<const ContextId*>(args.words + edits.context);
    const int32_t last = edits.last_id == nullptr ? -1 : *edits.last_id;
    float* originals = nullptr;
    if (edits.originals >= 0) originals = args.originals + edits.originals + edits.num_biases;
    uint32_t is_new = last >= 0 ? 1 : 0;
    for (uint32_t i = ThreadIndex(); i < edits.num_context; i += kThreads) {
      const int32_t id = context[i].id;
      if (id == last) is_new = 0;
      const uint32_t at = static_cast<uint32_t>(id) - static_cast<uint32_t>(begin);
      if (at >= static_cast<uint32_t>(count)) continue;
      if (originals != nullptr) originals[i] = logits[at];
      logits[at] = Penalised(edits, context[i].count + (id == last ? 1 : 0), logits[at]);
    }
    if (edits.last_id == nullptr) return;
    // Whether nobody found it: the least of all flags.
    auto* scratch = reinterpret_cast<BlockScratch*>(SharedMemory());
    is_new = BlockMax(1 - is_new, scratch) == 0 ? 1 : 0;
    if (ThreadIndex() != 0) return;
    if (originals != nullptr && begin == 0) {
      originals[edits.num_context + 1] = BitsToFloat(static_cast<uint32_t>(last));
    }
    const uint32_t at = static_cast<uint32_t>(last) - static_cast<uint32_t>(begin);
    if (is_new == 0 || at >= static_cast<uint32_t>(count)) return;
    if (originals != nullptr) originals[edits.num_context] = logits[at];
    logits[at] = Penalised(edits, 1, logits[at]);
  }

  QS_DEVICE static float Penalised(const SampleEdits& edits, int32_t count, float logit) {
    if (edits.repetition_penalty != 1.0f) {
      logit = logit > 0 ? logit / edits.repetition_penalty : logit * edits.repetition_penalty;
    }
    if (count > 0 && (edits.presence_penalty != 0.0f || edits.frequency_penalty != 0.0f)) {
      const float times = static_cast<float>(count) * edits.frequency_penalty;
      logit = logit - (edits.presence_penalty + times);
    }
    return logit;
  }
};

}  // namespace
}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_SAMPLE_SCAN_ROWS_H_
