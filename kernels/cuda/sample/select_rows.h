#ifndef QWENSERVE_KERNELS_CUDA_SAMPLE_SELECT_ROWS_H_
#define QWENSERVE_KERNELS_CUDA_SAMPLE_SELECT_ROWS_H_

#include "kernels/cuda/sample/sample_math.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {  // for one .cu file

// Whether a job counts ids (or masses) by steps, and has candidates.
QS_DEVICE bool HasSteps(const SampleJob& job) { return job.select >= 0; }
// The last step is that of the first `count` ids, or of a share of the mass.
QS_DEVICE bool CountsIds(const SampleJob& job) { return job.kind != SampleKind::kNucleus; }

// Ids, or their masses, by steps below the highest logit; the mass of kLogprobs.
struct MeasureRows {
  using Args = SampleArgs;
  static constexpr int kThreads = kSampleThreads;
  static constexpr int kMinBlocks = 4;

  struct Shared {
    BlockScratch scratch;
    uint64_t steps[kSampleSteps];
  };

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    const int index = args.first_job + static_cast<int>(BlockIndex().y);
    const int chunk = static_cast<int>(BlockIndex().x);
    const SampleJob job = args.jobs[index];
    const bool scored = job.kind == SampleKind::kLogprobs;
    if (!HasSteps(job) && !scored) return;
    const uint64_t best = BestOf(args, index);
    if (!IsUsable(best)) return;
    auto* shared = reinterpret_cast<Shared*>(SharedMemory());
    for (int i = ThreadIndex(); i < kSampleSteps; i += kThreads) shared->steps[i] = 0;
    SyncThreads();

    const float max = LogitOf(best);
    const float* logits = LogitsOf(args, job);
    const int32_t begin = chunk * kSampleChunk;
    const int32_t left = args.vocab_size - begin;
    const int32_t end = begin + (left < kSampleChunk ? left : kSampleChunk);
    uint64_t mass = 0;
    for (int32_t i = begin + ThreadIndex(); i < end; i += kThreads) {
      const float p = WeightOf(logits[i], max, job.inverse_temperature);
      const int64_t own = MassOf(p);
      mass += static_cast<uint64_t>(own);
      // An alternative may have a p of 0; nobody draws it.
      if (!HasSteps(job) || IsMinusInfinity(logits[i]) || (p == 0 && !scored)) continue;
      AtomicAdd(&shared->steps[StepOf(logits[i], max, job.inverse_temperature)],
                CountsIds(job) ? uint64_t{1} : static_cast<uint64_t>(own));
    }
    if (scored) {
      uint64_t total = 0;
      BlockSumBefore(mass, &total, &shared->scratch);
      if (ThreadIndex() == 0) {
        args.mass[static_cast<int64_t>(index) * args.chunks + chunk] = static_cast<int64_t>(total);
      }
    }
    if (!HasSteps(job)) return;
    SyncThreads();
    uint64_t* steps = args.steps + static_cast<int64_t>(job.select) * kSampleSteps;
    for (int i = ThreadIndex(); i < kSampleSteps; i += kThreads) {
      if (shared->steps[i] != 0) AtomicAdd(&steps[i], shared->steps[i]);
    }
  }
};

// Finds the last step from what measure left, then this chunk's candidates and its race.
struct CollectRows {
  using Args = SampleArgs;
  static constexpr int kThreads = kSampleThreads;
  static constexpr int kMinBlocks = 2;
  static constexpr int kOwn = kSampleChunk / kThreads;  // ids of a thread

  struct Shared {
    BlockScratch scratch;
    int64_t before;
    int32_t last_step;
  };

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    const int index = args.first_job + static_cast<int>(BlockIndex().y);
    const int chunk = static_cast<int>(BlockIndex().x);
    const SampleJob job = args.jobs[index];
    const bool race = job.kind == SampleKind::kRace;
    if (!HasSteps(job) && !race) return;
    const uint64_t best = BestOf(args, index);
    if (!IsUsable(best)) return;
    auto* shared = reinterpret_cast<Shared*>(SharedMemory());
    int last_step = kSampleSteps;
    if (!race) last_step = FindLastStep(args, job, chunk, shared);

    // Who is surely kept: in a race all, else those above the last step. Those of kTop and
    // kLogprobs are candidates, too: finish sorts them.
    const bool sorts_all = job.kind == SampleKind::kTop || job.kind == SampleKind::kLogprobs;
    const float max = LogitOf(best);
    const float* logits = LogitsOf(args, job);
    float p[kOwn];
    QS_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int32_t id = chunk * kSampleChunk + j * kThreads + ThreadIndex();
      p[j] = 0;
      if (id >= args.vocab_size) continue;
      const float logit = logits[id];
      const float weight = WeightOf(logit, max, job.inverse_temperature);
      if (IsMinusInfinity(logit) || (weight == 0 && job.kind != SampleKind::kLogprobs)) continue;
      const int step = StepOf(logit, max, job.inverse_temperature);
      if (step == last_step || (sorts_all && step < last_step)) {
        AddCandidate(args, job, RankOf(logit, id));
      } else if (!sorts_all && step < last_step && weight >= job.min_p) {
        p[j] = weight;
      }
    }
    if (sorts_all) return;
    const Racer winner = Race(job, chunk, logits, max, p, &shared->scratch);
    if (ThreadIndex() == 0) {
      args.race[static_cast<int64_t>(index) * args.chunks + chunk] = {winner.ratio, winner.id, 0};
    }
  }

 private:
  QS_DEVICE static void AddCandidate(const Args& args, const SampleJob& job, uint64_t rank) {
    const uint32_t at = AtomicAdd(&args.found[job.select], 1u);
    if (at < static_cast<uint32_t>(kMaxCandidates)) {
      args.candidates[static_cast<int64_t>(job.select) * kMaxCandidates + at] = rank;
    }
  }

  // Of this thread's ids with p > 0.
  QS_DEVICE static Racer Race(const SampleJob& job, int chunk, const float* logits, float max,
                              const float (&p)[kOwn], BlockScratch* scratch) {
    // Who has p / v at or below a ratio that somebody surely reaches cannot win, since E > v: very
    // few need the logarithm.
    float least = 0;
    QS_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int32_t id = chunk * kSampleChunk + j * kThreads + ThreadIndex();
      if (p[j] > 0) least = Max(least, LeastRatio(p[j], UniformOf(job.noise_key, id)));
    }
    const auto bits = static_cast<uint32_t>(BlockMax(FloatBits(least), scratch));
    const double bound = static_cast<double>(BitsToFloat(bits)) * (1 - 1e-12);
    uint32_t runs = 0;
    QS_UNROLL
    for (int j = 0; j < kOwn; ++j) {
      const int32_t id = chunk * kSampleChunk + j * kThreads + ThreadIndex();
      if (p[j] > 0 && static_cast<double>(p[j]) > bound * UniformOf(job.noise_key, id)) {
        runs |= 1u << j;
      }
    }
    Racer own;
    for (; runs != 0; runs &= runs - 1) {
      const int32_t id = chunk * kSampleChunk + LowestBit(runs) * kThreads + ThreadIndex();
      const float weight = WeightOf(logits[id], max, job.inverse_temperature);
      own.Enter(RatioOf(weight, UniformOf(job.noise_key, id)), id);
    }
    return BlockRace(own, scratch);
  }

  QS_DEVICE static int FindLastStep(const Args& args, const SampleJob& job, int chunk,
                                    Shared* shared) {
    constexpr int kSteps = kSampleSteps / kThreads;  // of a thread
    const uint64_t* steps = args.steps + static_cast<int64_t>(job.select) * kSampleSteps;
    uint64_t own[kSteps];
    uint64_t sum = 0;
    QS_UNROLL
    for (int i = 0; i < kSteps; ++i) {
      own[i] = steps[ThreadIndex() * kSteps + i];
      sum += own[i];
    }
    uint64_t total = 0;
    uint64_t before = BlockSumBefore(sum, &total, &shared->scratch);
    const double target = CountsIds(job) ? static_cast<double>(job.count)
                                         : TargetMass(job.top_p, static_cast<int64_t>(total));
    QS_UNROLL
    for (int i = 0; i < kSteps; ++i) {
      const int step = ThreadIndex() * kSteps + i;
      const bool reaches = static_cast<double>(static_cast<int64_t>(before + own[i])) >= target;
      // Exactly one step does so first; where none does it is the very last one.
      if (static_cast<double>(static_cast<int64_t>(before)) < target &&
          (reaches || step == kSampleSteps - 1)) {
        shared->last_step = step;
        shared->before = static_cast<int64_t>(before);
      }
      before += own[i];
    }
    SyncThreads();
    if (chunk == 0 && ThreadIndex() == 0) {
      args.state[job.select] = {shared->before, static_cast<int64_t>(total)};
    }
    return shared->last_step;
  }
};

}  // namespace
}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_SAMPLE_SELECT_ROWS_H_
