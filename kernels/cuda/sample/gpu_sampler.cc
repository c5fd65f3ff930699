#include "kernels/cuda/sample/gpu_sampler.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "kernels/cpu/sample/sample_noise.h"
#include "kernels/cuda/runtime/gpu_buffer.h"

namespace qwenserve {
namespace {

// Parts of one allocation, each aligned for any type.
class Layout {
 public:
  size_t Add(size_t count, size_t size) {
    const size_t at = bytes_;
    bytes_ = (bytes_ + count * size + 15) / 16 * 16;
    return at;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

template <typename T>
T* At(const Buffer& buffer, size_t offset) {
  return reinterpret_cast<T*>(buffer.as<char>() + offset);
}

// A buffer that is too small is replaced by one twice as big as needed.
template <typename Allocate>
absl::Status Grow(GpuDevice& device, size_t bytes, Allocate allocate, Buffer* buffer,
                  std::vector<Buffer>* outgrown) {
  if (bytes <= buffer->bytes()) return absl::OkStatus();
  absl::StatusOr<Buffer> grown = allocate(device, std::max<size_t>(2 * bytes, 1 << 20));
  if (!grown.ok()) return grown.status();
  if (buffer->bytes() > 0) outgrown->push_back(std::move(*buffer));
  *buffer = *std::move(grown);
  return absl::OkStatus();
}

}  // namespace

GpuSampler::~GpuSampler() {
  for (const auto& flight : flights_) {
    if (flight->done != 0) device_.Release(flight->done);
  }
}

void GpuSampler::Sample(float* logits, int64_t stride, int64_t vocab_size,
                        absl::Span<const SampleRow> rows, int32_t* drawn, SampledToken* tokens) {
  QS_CHECK(vocab_size > 0 && vocab_size <= stride && vocab_size <= int64_t{1} << 24);
  if (rows.empty()) return;
  std::fill_n(tokens, rows.size(), SampledToken());
  const SampleUpload upload(rows, vocab_size, &counts_);
  SampleArgs args;
  args.logits = logits;
  args.stride = stride;
  args.vocab_size = static_cast<int32_t>(vocab_size);
  args.chunks = static_cast<int32_t>((vocab_size + kSampleChunk - 1) / kSampleChunk);
  args.drawn = drawn;

  if (idle_.empty()) idle_.push_back(std::make_unique<Flight>());
  std::unique_ptr<Flight> flight = std::move(idle_.back());
  idle_.pop_back();
  flight->tokens = tokens;
  const absl::Status issued = Issue(upload, args, rows, *flight);
  status_.Update(issued);
  if (issued.ok()) {
    flights_.push_back(std::move(flight));
  } else {
    idle_.push_back(std::move(flight));
  }
}

absl::Status GpuSampler::PlaceScratch(const SampleUpload& upload, size_t rows, SampleArgs* args) {
  const size_t jobs = upload.jobs().size(), selects = static_cast<size_t>(upload.num_selects());
  const size_t parts = jobs * static_cast<size_t>(args->chunks);
  Layout layout;
  const size_t ids = layout.Add(rows, sizeof(int32_t));
  const size_t details = layout.Add(upload.num_scored() > 0 ? rows : 0, sizeof(SampleDetail));
  const size_t best = layout.Add(parts, sizeof(uint64_t));
  const size_t mass = layout.Add(parts, sizeof(int64_t));
  const size_t race = layout.Add(parts, sizeof(RacePart));
  const size_t steps = layout.Add(selects * kSampleSteps, sizeof(uint64_t));
  const size_t candidates = layout.Add(selects * kMaxCandidates, sizeof(uint64_t));
  const size_t state = layout.Add(selects, sizeof(SelectState));
  const size_t found = layout.Add(selects, sizeof(uint32_t));
  const size_t originals = layout.Add(static_cast<size_t>(upload.num_originals()), sizeof(float));
  const absl::Status grown =
      Grow(device_, layout.bytes(), AllocateGpuBuffer, &scratch_, &outgrown_);
  if (!grown.ok()) return grown;
  args->ids = At<int32_t>(scratch_, ids);
  args->details = At<SampleDetail>(scratch_, details);
  args->best = At<uint64_t>(scratch_, best);
  args->mass = At<int64_t>(scratch_, mass);
  args->race = At<RacePart>(scratch_, race);
  args->steps = At<uint64_t>(scratch_, steps);
  args->candidates = At<uint64_t>(scratch_, candidates);
  args->state = At<SelectState>(scratch_, state);
  args->found = At<uint32_t>(scratch_, found);
  args->originals = At<float>(scratch_, originals);
  return absl::OkStatus();
}

void GpuSampler::LaunchJobs(SampleArgs args, const SampleUpload& upload, int begin, int end,
                            bool* behind) {
  if (begin == end) return;
  args.first_job = begin;
  bool measured = false, collected = false;
  for (const SampleJob& job : upload.jobs().subspan(begin, end - begin)) {
    measured |= job.select >= 0 || job.kind == SampleKind::kLogprobs;
    collected |= job.select >= 0 || job.kind == SampleKind::kRace;
  }
  const auto launch = [&](const GpuKernel& kernel, int grid_x, int grid_y, uint32_t shared_bytes) {
    device_.Launch(kernel,
                   {.grid_x = static_cast<uint32_t>(grid_x),
                    .grid_y = static_cast<uint32_t>(grid_y),
                    .shared_bytes = shared_bytes,
                    .overlaps_previous = *behind},
                   args);
    *behind = true;
  };
  launch(kernels_.scan, args.chunks, end - begin, kSampleScanBytes);
  if (measured) launch(kernels_.measure, args.chunks, end - begin, kSampleMeasureBytes);
  if (collected) launch(kernels_.collect, args.chunks, end - begin, kSampleCollectBytes);
  const int scored = std::min(end, upload.num_scored()) - begin;
  if (scored > 0) launch(kernels_.score, scored, 1, kSampleFinishBytes);
}

absl::Status GpuSampler::Issue(const SampleUpload& upload, const SampleArgs& shape,
                               absl::Span<const SampleRow> rows, Flight& flight) {
  SampleArgs args = shape;
  absl::Status status = PlaceScratch(upload, rows.size(), &args);
  status.Update(Grow(device_, upload.bytes(), AllocateGpuBuffer, &upload_, &outgrown_));
  status.Update(Grow(device_, upload.bytes(), AllocatePinnedBuffer, &flight.upload, &outgrown_));
  // Identifiers and details lie at the start of the scratch, so one copy fetches both.
  flight.details_offset =
      static_cast<size_t>(reinterpret_cast<char*>(args.details) - scratch_.as<char>());
  const size_t result_bytes =
      flight.details_offset + (upload.num_scored() > 0 ? rows.size() * sizeof(SampleDetail) : 0);
  if (status.ok())
    status = Grow(device_, result_bytes, AllocatePinnedBuffer, &flight.download, &outgrown_);
  if (!status.ok()) return status;

  flight.num_logprobs.clear();
  for (const SampleRow& row : rows) flight.num_logprobs.push_back(row.num_logprobs);
  std::memcpy(flight.upload.data(), upload.words(), upload.bytes());
  device_.CopyToDevice(upload_.data(), flight.upload.data(), upload.bytes(), GpuStream::kCompute);
  args.jobs = At<const SampleJob>(upload_, upload.jobs_offset());
  args.rows = At<const SampleRowPlan>(upload_, upload.rows_offset());
  args.edits = At<const SampleEdits>(upload_, upload.edits_offset());
  args.words = upload_.as<const uint32_t>();

  bool behind = false;  // another kernel of this call
  LaunchJobs(args, upload, 0, upload.num_early(), &behind);
  LaunchJobs(args, upload, upload.num_early(), static_cast<int>(upload.jobs().size()), &behind);
  device_.Launch(kernels_.finish,
                 {.grid_x = static_cast<uint32_t>(rows.size()),
                  .shared_bytes = kSampleFinishBytes,
                  .overlaps_previous = behind},
                 args);
  device_.CopyToHost(flight.download.data(), scratch_.data(), result_bytes, GpuStream::kCompute);
  flight.done = device_.Record(GpuStream::kCompute);
  return absl::OkStatus();
}

void GpuSampler::Write(const Flight& flight) {
  const auto* ids = flight.download.as<const int32_t>();
  const auto* details = At<const SampleDetail>(flight.download, flight.details_offset);
  for (size_t i = 0; i < flight.num_logprobs.size(); ++i) {
    SampledToken& token = flight.tokens[i];
    token.id = ids[i];
    if (token.id < 0 || flight.num_logprobs[i] < 0) continue;
    const SampleDetail& detail = details[i];
    token.logprob = LogprobOf(detail.logit, detail.max, detail.mass);
    for (const TokenLogit& top : absl::MakeConstSpan(detail.top, detail.num_top)) {
      token.top.push_back({top.id, LogprobOf(top.logit, detail.max, detail.mass)});
    }
  }
}

absl::Status GpuSampler::Deliver() {
  // What an event says behind an error means nothing.
  if (absl::Status device = device_.Check(); !device.ok()) return device;
  while (!flights_.empty() && device_.Done(flights_.front()->done)) {
    std::unique_ptr<Flight> flight = std::move(flights_.front());
    flights_.pop_front();
    device_.Release(flight->done);
    flight->done = 0;
    Write(*flight);
    idle_.push_back(std::move(flight));
  }
  return std::exchange(status_, absl::OkStatus());
}

}  // namespace qwenserve
