#ifndef QWENSERVE_KERNELS_CUDA_SAMPLE_SAMPLE_JOBS_H_
#define QWENSERVE_KERNELS_CUDA_SAMPLE_SAMPLE_JOBS_H_

// What the kernels of sampling are told, and what they leave for each other. The rules and the
// arithmetic are those of the CPU (kernels/README.md, "Sample"), so equal logits give equal bits.
//
// Work on a row is a job: the draw of its token, or its log-probabilities. Every kernel looks at a
// row in chunks of kSampleChunk ids, one block each, and leaves what it found per chunk; the next
// one combines that, without an order:
//
//   scan:    applies the row's edits to the chunk; the chunk's highest logit.
//   measure: numbers or masses of ids by steps of -log p below the highest; mass of the softmax.
//   collect: the step at which top-k or top-p ends, its ids as candidates, and the race among the
//            ids that are surely kept.
//   score:   one block per job of log-probabilities: sorts the candidates.
//   finish:  one block per row: sorts the candidates, ends the race, writes the token.
//
// Where there are too many candidates to sort, the last two find the last kept id by its bits,
// eight at a time, among the candidates, and where there are even more (thousands of equal logits,
// or a very wide top-k with top-p) over the whole row: slower, and as exact. Greedy rows need scan
// and finish; draws from the whole vocabulary also collect.
#include <cstdint>

#include "kernels/cuda/runtime/gpu_kernel.h"
#include "kernels/sample_row.h"
#include "kernels/shard_sampler.h"

namespace qwenserve {

inline constexpr int32_t kSampleChunk = 4096;    // ids of a block
inline constexpr int32_t kSampleThreads = 256;   // of a block
inline constexpr int32_t kSampleSteps = 2048;    // of -log p, which ends at 87.33
inline constexpr int32_t kMaxCandidates = 4096;  // that collect keeps for finish
inline constexpr int32_t kMaxSorted = 1024;      // of which finish sorts so many
// Up to here all that top-k keeps are candidates; beyond, only those at its end.
inline constexpr int32_t kMaxListedTopK = 2048;

enum class SampleKind : int32_t {
  kGreedy,
  kRace,      // among all ids
  kTop,       // among the first `count`, all of them candidates; with top-p
  kNucleus,   // top-p of all
  kWideTop,   // many, without top-p
  kBits,      // many, and top-p of them: only finish, over the whole row
  kLogprobs,  // no draw: highest logit, mass and the first `count`
};

struct SampleJob {
  uint64_t noise_key = 0;
  int32_t row = 0;
  SampleKind kind = SampleKind::kGreedy;
  int32_t count = 0;                 // top-k; alternatives of kLogprobs; 0: none
  int32_t select = -1;               // its steps and candidates; -1: needs none
  int32_t edits = -1;                // to be applied first; -1: none
  float inverse_temperature = 1.0f;  // 1 for kLogprobs
  float top_p = 1.0f;
  float min_p = 0.0f;
};

// An id of the context and how often it was generated; 0: it is only in the prompt.
struct ContextId {
  int32_t id = 0;
  int32_t count = 0;
};

// Lists are offsets in words of 4 bytes into the upload.
struct SampleEdits {
  uint32_t biases = 0, num_biases = 0;    // LogitBias, distinct ids
  uint32_t context = 0, num_context = 0;  // ContextId, distinct ids
  uint32_t banned = 0, num_banned = 0;    // int32_t
  uint32_t allowed = 0, has_allowed = 0;  // bit mask of the vocabulary
  // Where the logits that biases and context change are kept: those of the biases, the context and
  // the last id, then the last id itself, as bits; -1: nobody asks.
  int32_t originals = -1;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  const int32_t* last_id = nullptr;  // SampleRow::last_id
};

struct SampleRowPlan {
  int32_t draw_job = -1;      // -1: the token is given
  int32_t logprobs_job = -1;  // -1: none asked for
  int32_t given_id = -1;
  int32_t edits = -1;
};

// The best of a chunk's race. id -1: nobody took part.
struct RacePart {
  double ratio = 0;
  int32_t id = -1;
  int32_t unused = 0;
};

// Where the kept ids end, from collect to finish.
struct SelectState {
  int64_t before = 0;  // measure of the steps above the last one
  int64_t total = 0;   // of all steps
};

// What the host needs for log-probabilities.
struct SampleDetail {
  int64_t mass = 0;  // of the logits as they came
  float max = 0;
  float logit = 0;  // of the token
  int32_t num_top = 0;
  int32_t unused = 0;
  TokenLogit top[kMaxTopLogprobs];
};

// Of every kernel. Grid of scan, measure and collect: chunks x jobs from first_job; of score: jobs
// from first_job; of finish: rows.
struct SampleArgs {
  float* logits = nullptr;  // [rows, stride]
  int64_t stride = 0;
  int32_t vocab_size = 0;
  int32_t chunks = 0;
  int32_t first_job = 0;
  int32_t unused = 0;
  const SampleJob* jobs = nullptr;
  const SampleRowPlan* rows = nullptr;
  const SampleEdits* edits = nullptr;
  const uint32_t* words = nullptr;  // the upload
  // Between kernels. best: the highest (logit, id) as RankOf, or kNoRank, kUnsoundRank.
  uint64_t* best = nullptr;        // [jobs, chunks]
  int64_t* mass = nullptr;         // [jobs, chunks], of kLogprobs
  RacePart* race = nullptr;        // [jobs, chunks]
  uint64_t* steps = nullptr;       // [selects, kSampleSteps]
  SelectState* state = nullptr;    // [selects]
  uint32_t* found = nullptr;       // [selects]: candidates; may say more than were kept
  uint64_t* candidates = nullptr;  // [selects, kMaxCandidates], as RankOf
  float* originals = nullptr;
  // Results.
  int32_t* ids = nullptr;           // [rows]
  int32_t* drawn = nullptr;         // [rows] or null: the same, for who reads it on the device
  SampleDetail* details = nullptr;  // [rows], of rows with log-probabilities
};

// Shared memory of each kernel.
inline constexpr uint32_t kSampleScanBytes = 256;
inline constexpr uint32_t kSampleMeasureBytes = 256 + kSampleSteps * 8;
inline constexpr uint32_t kSampleCollectBytes = 256;
inline constexpr uint32_t kSampleFinishBytes = 512 + 256 * 8 + 2 * kMaxSorted * 8;

struct SamplingKernels {
  GpuKernel scan, measure, collect, score, finish;
};

namespace on_cuda {
SamplingKernels GetSamplingKernels();
}
namespace on_simt {
SamplingKernels GetSamplingKernels();
}

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_SAMPLE_SAMPLE_JOBS_H_
