#ifndef QWENSERVE_KERNELS_CUDA_SAMPLE_FINISH_ROWS_H_
#define QWENSERVE_KERNELS_CUDA_SAMPLE_FINISH_ROWS_H_

#include "kernels/cuda/sample/sample_math.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {
namespace {  // for one .cu file

// Finding the first ids of a row in their order, by one block.
struct RowOrder {
  static constexpr int kThreads = kSampleThreads;

  struct Shared {
    BlockScratch scratch;
    uint64_t candidates[kMaxCandidates];
    uint64_t sorted[kMaxCandidates];
    uint64_t digits[256];
    uint64_t digit, before;
    uint32_t found;
  };

  // sorted[0..count): all ranks are different, so each finds its own place.
  QS_DEVICE static void Sort(Shared* shared, int count) {
    SyncThreads();
    for (int i = ThreadIndex(); i < count; i += kThreads) {
      const uint64_t own = shared->candidates[i];
      int place = 0;
      for (int j = 0; j < count; ++j) place += shared->candidates[j] > own ? 1 : 0;
      shared->sorted[place] = own;
    }
    SyncThreads();
  }

  QS_DEVICE static int LoadCandidates(const SampleArgs& args, const SampleJob& job,
                                      Shared* shared) {
    const int count = static_cast<int>(args.found[job.select]);
    const uint64_t* candidates =
        args.candidates + static_cast<int64_t>(job.select) * kMaxCandidates;
    for (int i = ThreadIndex(); i < count; i += kThreads) shared->candidates[i] = candidates[i];
    return count;
  }

  // --- The slow way ---------------------------------------------------------------------------

  // The rank of an id that takes part, with its p; kNoRank otherwise.
  QS_DEVICE static uint64_t RankIn(const SampleArgs& args, const SampleJob& job, float max,
                                   int32_t id, float* p) {
    const float logit = LogitsOf(args, job)[id];
    if (IsMinusInfinity(logit)) return kNoRank;
    *p = WeightOf(logit, max, job.inverse_temperature);
    if (!(*p > 0) && job.kind != SampleKind::kLogprobs) return kNoRank;
    return RankOf(logit, id);
  }

  // The rank of the last id of the shortest prefix of those at or above `least` whose measure
  // reaches the target; `least` where none does.
  QS_DEVICE static uint64_t LastRank(const SampleArgs& args, const SampleJob& job, float max,
                                     bool by_mass, double target, uint64_t least, Shared* shared) {
    uint64_t prefix = 0, before = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
      SyncThreads();
      shared->digits[ThreadIndex()] = 0;
      if (ThreadIndex() == 0) shared->digit = 256;
      SyncThreads();
      for (int32_t id = ThreadIndex(); id < args.vocab_size; id += kThreads) {
        float p = 0;
        const uint64_t rank = RankIn(args, job, max, id, &p);
        if (rank == kNoRank || rank < least) continue;
        if (shift < 56 && (rank ^ prefix) >> (shift + 8) != 0) continue;
        AtomicAdd(&shared->digits[rank >> shift & 255],
                  by_mass ? static_cast<uint64_t>(MassOf(p)) : uint64_t{1});
      }
      SyncThreads();
      // Thread i has digit 255 - i: the highest first.
      const uint64_t own = shared->digits[255 - ThreadIndex()];
      uint64_t total = 0;
      const uint64_t above = before + BlockSumBefore(own, &total, &shared->scratch);
      if (static_cast<double>(static_cast<int64_t>(above)) < target &&
          static_cast<double>(static_cast<int64_t>(above + own)) >= target) {
        shared->digit = static_cast<uint64_t>(255 - ThreadIndex());
        shared->before = above;
      }
      SyncThreads();
      if (shared->digit == 256) return least;
      prefix |= shared->digit << shift;
      before = shared->before;
    }
    return prefix;
  }
};

// What a kLogprobs job is for: one block each.
struct ScoreRows {
  using Args = SampleArgs;
  static constexpr int kThreads = kSampleThreads;
  static constexpr int kMinBlocks = 2;

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    auto* shared = reinterpret_cast<RowOrder::Shared*>(SharedMemory());
    const int index = args.first_job + static_cast<int>(BlockIndex().x);
    const SampleJob job = args.jobs[index];
    const uint64_t best = BestOf(args, index);
    if (!IsUsable(best)) return;
    SampleDetail& detail = args.details[job.row];
    const int count = Top(args, job, LogitOf(best), shared);
    for (int i = ThreadIndex(); i < count; i += kThreads) {
      detail.top[i].logit = LogitOf(shared->sorted[i]);
      detail.top[i].id = IdOf(shared->sorted[i]);
    }
    uint64_t mass = 0, total = 0;
    const int64_t* masses = args.mass + static_cast<int64_t>(index) * args.chunks;
    for (int i = ThreadIndex(); i < args.chunks; i += kThreads) {
      mass += static_cast<uint64_t>(masses[i]);
    }
    BlockSumBefore(mass, &total, &shared->scratch);
    if (ThreadIndex() != 0) return;
    detail.mass = static_cast<int64_t>(total);
    detail.max = LogitOf(best);
    detail.num_top = count;
  }

 private:
  // The highest ids of a row as it came, sorted; returns how many.
  QS_DEVICE static int Top(const Args& args, const SampleJob& job, float max,
                           RowOrder::Shared* shared) {
    if (job.count == 0) return 0;
    int count = 0;
    if (args.found[job.select] <= static_cast<uint32_t>(kMaxCandidates)) {
      count = RowOrder::LoadCandidates(args, job, shared);
    } else {
      const uint64_t last = RowOrder::LastRank(args, job, max, false, job.count, kNoRank, shared);
      if (ThreadIndex() == 0) shared->found = 0;
      SyncThreads();
      for (int32_t id = ThreadIndex(); id < args.vocab_size; id += kThreads) {
        float p = 0;
        const uint64_t rank = RowOrder::RankIn(args, job, max, id, &p);
        if (rank == kNoRank || rank < last) continue;
        shared->candidates[AtomicAdd(&shared->found, 1u)] = rank;
      }
      SyncThreads();
      count = static_cast<int>(shared->found);
    }
    RowOrder::Sort(shared, count);
    return count < job.count ? count : job.count;
  }
};

// One block per row: ends what the chunks began and writes the token.
struct FinishRows {
  using Args = SampleArgs;
  using Shared = RowOrder::Shared;
  static constexpr int kThreads = kSampleThreads;
  static constexpr int kMinBlocks = 2;
  static constexpr int kOwn = kMaxCandidates / kThreads;

  QS_DEVICE static void Run(const Args& args) {
    GridDependencyTrigger();
    GridDependencyWait();
    auto* shared = reinterpret_cast<Shared*>(SharedMemory());
    const int row = static_cast<int>(BlockIndex().x);
    const SampleRowPlan plan = args.rows[row];
    int32_t id = plan.given_id;
    if (plan.draw_job >= 0) id = Draw(args, plan.draw_job, shared);
    float logit = 0;
    if (plan.logprobs_job >= 0) {
      if (!IsUsable(BestOf(args, plan.logprobs_job))) id = -1;
      if (id >= 0) logit = OriginalOf(args, plan, row, id, shared);
    }
    if (ThreadIndex() != 0) return;
    args.ids[row] = id;
    if (args.drawn != nullptr) args.drawn[row] = id;
    if (plan.logprobs_job >= 0) args.details[row].logit = logit;
  }

 private:
  QS_DEVICE static int32_t Draw(const Args& args, int index, Shared* shared) {
    const SampleJob job = args.jobs[index];
    const uint64_t best = BestOf(args, index);
    if (!IsUsable(best)) return -1;
    if (job.kind == SampleKind::kGreedy) return IdOf(best);
    const float max = LogitOf(best);
    Racer own;
    if (job.kind == SampleKind::kBits ||
        (job.select >= 0 && args.found[job.select] > static_cast<uint32_t>(kMaxCandidates))) {
      RaceByBits(args, job, max, shared, &own);
    } else {
      if (job.kind != SampleKind::kTop) {
        const RacePart* parts = args.race + static_cast<int64_t>(index) * args.chunks;
        for (int i = ThreadIndex(); i < args.chunks; i += kThreads) {
          own.Enter(parts[i].ratio, parts[i].id);
        }
      }
      if (job.select >= 0) RaceOfCandidates(args, job, max, shared, &own);
    }
    return BlockRace(own, &shared->scratch).id;
  }

  QS_DEVICE static void RaceOfCandidates(const Args& args, const SampleJob& job, float max,
                                         Shared* shared, Racer* own) {
    int count = RowOrder::LoadCandidates(args, job, shared);
    RowOrder::Sort(shared, count);
    const bool nucleus = job.kind == SampleKind::kNucleus;
    const SelectState state = args.state[job.select];
    int64_t before = nucleus ? state.before : 0;
    if (job.kind == SampleKind::kTop) count = job.count < count ? job.count : count;
    if (job.kind == SampleKind::kWideTop) {
      const int64_t left = job.count - state.before;
      count = left < count ? static_cast<int>(left) : count;
    }
    // Each thread has kOwn candidates in a row.
    int64_t masses[kOwn];
    float p[kOwn];
    int64_t sum = 0;
    QS_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      const int at = ThreadIndex() * kOwn + i;
      p[i] = at < count ? WeightOf(LogitOf(shared->sorted[at]), max, job.inverse_temperature) : 0;
      masses[i] = MassOf(p[i]);
      sum += masses[i];
    }
    uint64_t total = 0;
    before +=
        static_cast<int64_t>(BlockSumBefore(static_cast<uint64_t>(sum), &total, &shared->scratch));
    const bool cut = job.top_p < 1.0f && job.kind != SampleKind::kWideTop;
    const double target =
        TargetMass(job.top_p, nucleus ? state.total : static_cast<int64_t>(total));
    for (int i = 0; i < kOwn; ++i) {
      const bool kept = !cut || static_cast<double>(before) < target;
      before += masses[i];
      if (!kept || !(p[i] > 0) || p[i] < job.min_p) continue;
      const int32_t id = IdOf(shared->sorted[ThreadIndex() * kOwn + i]);
      own->Enter(RatioOf(p[i], UniformOf(job.noise_key, id)), id);
    }
  }

  QS_DEVICE static void RaceByBits(const Args& args, const SampleJob& job, float max,
                                   Shared* shared, Racer* own) {
    uint64_t least = kNoRank;
    if (job.count > 0) least = RowOrder::LastRank(args, job, max, false, job.count, least, shared);
    if (job.top_p < 1.0f) {
      uint64_t mass = 0, total = 0;
      for (int32_t id = ThreadIndex(); id < args.vocab_size; id += kThreads) {
        float p = 0;
        const uint64_t rank = RowOrder::RankIn(args, job, max, id, &p);
        if (rank != kNoRank && rank >= least) mass += static_cast<uint64_t>(MassOf(p));
      }
      BlockSumBefore(mass, &total, &shared->scratch);
      const double target = TargetMass(job.top_p, static_cast<int64_t>(total));
      least = RowOrder::LastRank(args, job, max, true, target, least, shared);
    }
    for (int32_t id = ThreadIndex(); id < args.vocab_size; id += kThreads) {
      float p = 0;
      const uint64_t rank = RowOrder::RankIn(args, job, max, id, &p);
      if (rank == kNoRank || rank < least || p < job.min_p) continue;
      const double v = UniformOf(job.noise_key, id);
      // E > v: most lose without a logarithm.
      if (static_cast<double>(p) <= own->ratio * (1 - 1e-12) * v) continue;
      own->Enter(RatioOf(p, v), id);
    }
  }

  // The logit of an id before the edits.
  QS_DEVICE static float OriginalOf(const Args& args, const SampleRowPlan& plan, int row,
                                    int32_t id, Shared* shared) {
    if (plan.edits < 0) return args.logits[row * args.stride + id];
    const SampleEdits& edits = args.edits[plan.edits];
    const auto* biases = reinterpret_cast<const LogitBias*>(args.words + edits.biases);
    const auto* context = reinterpret_cast<const ContextId*>(args.words + edits.context);
    const float* originals = args.originals + edits.originals;
    uint32_t place = ~0u;  // in the lists: the first entry has what was there before all
    const uint32_t last = edits.num_biases + edits.num_context;
    if (edits.last_id != nullptr && FloatBits(originals[last + 1]) == static_cast<uint32_t>(id)) {
      place = last;
    }
    for (uint32_t i = ThreadIndex(); i < edits.num_context; i += kThreads) {
      if (context[i].id == id) place = edits.num_biases + i;
    }
    for (uint32_t i = ThreadIndex(); i < edits.num_biases; i += kThreads) {
      if (biases[i].id == id) place = i;
    }
    place = ~static_cast<uint32_t>(BlockMax(~place, &shared->scratch));
    return place != ~0u ? originals[place] : args.logits[row * args.stride + id];
  }
};

}  // namespace
}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_SAMPLE_FINISH_ROWS_H_
