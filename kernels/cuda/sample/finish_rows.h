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
    uint64_t candidates[kMaxSorted];
    uint64_t sorted[kMaxSorted];
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

  // What finish looks through: a job's candidates, or where collect found more than were kept the
  // whole row.
  struct Source {
    const float* logits;   // of the row
    const uint64_t* list;  // the candidates; null: the row
    int32_t count;         // of the list, or the vocabulary
    float max, inverse_temperature;
    bool scores;  // takes part even with a p of 0

    // The i-th rank, with its p; kNoRank: does not take part.
    QS_DEVICE uint64_t RankAt(int32_t i, float* p) const {
      if (list != nullptr) {
        *p = WeightOf(LogitOf(list[i]), max, inverse_temperature);
        return list[i];
      }
      *p = 0;
      const float logit = logits[i];
      if (IsMinusInfinity(logit)) return kNoRank;
      *p = WeightOf(logit, max, inverse_temperature);
      return *p > 0 || scores ? RankOf(logit, i) : kNoRank;
    }
  };

  QS_DEVICE static Source SourceOf(const SampleArgs& args, const SampleJob& job, float max) {
    Source source = {LogitsOf(args, job),     nullptr,
                     args.vocab_size,         max,
                     job.inverse_temperature, job.kind == SampleKind::kLogprobs};
    if (job.select < 0 || args.found[job.select] > static_cast<uint32_t>(kMaxCandidates)) {
      return source;
    }
    source.list = args.candidates + static_cast<int64_t>(job.select) * kMaxCandidates;
    source.count = static_cast<int32_t>(args.found[job.select]);
    return source;
  }
  QS_DEVICE static bool IsShort(const Source& source) {
    return source.list != nullptr && source.count <= kMaxSorted;
  }
  QS_DEVICE static void Load(const Source& source, Shared* shared) {
    for (int i = ThreadIndex(); i < source.count; i += kThreads) {
      shared->candidates[i] = source.list[i];
    }
  }

  // --- By bits --------------------------------------------------------------------------------

  // The rank of the last id of the shortest prefix, of those at or above `least`, whose measure and
  // `before` reach the target; `least` where none does. Eight bits of it at a time.
  QS_DEVICE static uint64_t LastRank(const Source& source, bool by_mass, uint64_t before,
                                     double target, uint64_t least, Shared* shared) {
    uint64_t prefix = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
      SyncThreads();
      shared->digits[ThreadIndex()] = 0;
      if (ThreadIndex() == 0) shared->digit = 256;
      SyncThreads();
      for (int32_t i = ThreadIndex(); i < source.count; i += kThreads) {
        float p = 0;
        const uint64_t rank = source.RankAt(i, &p);
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
    const RowOrder::Source source = RowOrder::SourceOf(args, job, max);
    int count = source.count;
    if (RowOrder::IsShort(source)) {
      RowOrder::Load(source, shared);
    } else {
      const uint64_t last = RowOrder::LastRank(source, false, 0, job.count, kNoRank, shared);
      if (ThreadIndex() == 0) shared->found = 0;
      SyncThreads();
      for (int32_t i = ThreadIndex(); i < source.count; i += kThreads) {
        float p = 0;
        const uint64_t rank = source.RankAt(i, &p);
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
  static constexpr int kOwn = kMaxSorted / kThreads;

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
    const RowOrder::Source source = RowOrder::SourceOf(args, job, max);
    // Above the last step collect has raced, unless the whole row is looked through again.
    const bool raced =
        job.kind == SampleKind::kRace || (source.list != nullptr && job.kind != SampleKind::kTop);
    if (raced) {
      const RacePart* parts = args.race + static_cast<int64_t>(index) * args.chunks;
      for (int i = ThreadIndex(); i < args.chunks; i += kThreads) {
        own.Enter(parts[i].ratio, parts[i].id);
      }
    }
    if (job.kind != SampleKind::kRace) {
      const SelectState state = raced ? args.state[job.select] : SelectState();
      if (RowOrder::IsShort(source)) {
        RaceSorted(job, state, source, shared, &own);
      } else {
        RaceByBits(job, state, source, shared, &own);
      }
    }
    return BlockRace(own, &shared->scratch).id;
  }

  // `state`: what stands before the source's first.
  QS_DEVICE static void RaceSorted(const SampleJob& job, const SelectState& state,
                                   const RowOrder::Source& source, Shared* shared, Racer* own) {
    RowOrder::Load(source, shared);
    RowOrder::Sort(shared, source.count);
    const bool nucleus = job.kind == SampleKind::kNucleus;
    int64_t count = source.count, before = nucleus ? state.before : 0;
    if (!nucleus && job.count - state.before < count) count = job.count - state.before;
    // Each thread has kOwn candidates in a row.
    int64_t masses[kOwn];
    float p[kOwn];
    int64_t sum = 0;
    QS_UNROLL
    for (int i = 0; i < kOwn; ++i) {
      const int at = ThreadIndex() * kOwn + i;
      p[i] = at < count ? WeightOf(LogitOf(shared->sorted[at]), source.max, job.inverse_temperature)
                        : 0;
      masses[i] = MassOf(p[i]);
      sum += masses[i];
    }
    uint64_t total = 0;
    before +=
        static_cast<int64_t>(BlockSumBefore(static_cast<uint64_t>(sum), &total, &shared->scratch));
    const bool cut = job.top_p < 1.0f;
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

  QS_DEVICE static void RaceByBits(const SampleJob& job, const SelectState& state,
                                   const RowOrder::Source& source, Shared* shared, Racer* own) {
    uint64_t least = kNoRank;
    if (job.count > 0) {
      least = RowOrder::LastRank(source, false, static_cast<uint64_t>(state.before), job.count,
                                 least, shared);
    }
    if (job.top_p < 1.0f) {
      int64_t total = state.total;
      if (total == 0) total = MassFrom(source, least, shared);
      least = RowOrder::LastRank(source, true, static_cast<uint64_t>(state.before),
                                 TargetMass(job.top_p, total), least, shared);
    }
    for (int32_t i = ThreadIndex(); i < source.count; i += kThreads) {
      float p = 0;
      const uint64_t rank = source.RankAt(i, &p);
      if (rank == kNoRank || rank < least || !(p > 0) || p < job.min_p) continue;
      const int32_t id = IdOf(rank);
      const double v = UniformOf(job.noise_key, id);
      // E > v: most lose without a logarithm.
      if (static_cast<double>(p) <= own->ratio * (1 - 1e-12) * v) continue;
      own->Enter(RatioOf(p, v), id);
    }
  }

  QS_DEVICE static int64_t MassFrom(const RowOrder::Source& source, uint64_t least,
                                    Shared* shared) {
    uint64_t mass = 0, total = 0;
    for (int32_t i = ThreadIndex(); i < source.count; i += kThreads) {
      float p = 0;
      const uint64_t rank = source.RankAt(i, &p);
      if (rank != kNoRank && rank >= least) mass += static_cast<uint64_t>(MassOf(p));
    }
    BlockSumBefore(mass, &total, &shared->scratch);
    return static_cast<int64_t>(total);
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
