#include "kernels/cuda/cublaslt/cublaslt_linear.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/runtime/gpu_buffer.h"

namespace qwenserve {
namespace {

constexpr int kTimings = 3;
constexpr int kAtOnce = 5;  // products of one timing: a wait for the device has a grain

// Choices of one GPU, driver and library hold for no other.
std::string IdentityOf(const GpuDevice& device, const CublasLt& library) {
  const GpuProperties& gpu = device.properties();
  return absl::StrCat(gpu.name, ", ", gpu.num_sms, " multiprocessors, driver ", gpu.driver_version,
                      ", cublaslt ", library.version());
}

size_t UnpackedBytes(const LinearWeight& weight) {
  return static_cast<size_t>(weight.out_features * weight.in_features) * sizeof(uint16_t);
}

// What is more exact than bf16 stays so; rows of a matrix have to be aligned.
bool Suits(const LinearWeight& weight) {
  return weight.format != WeightFormat::kF32 && weight.format != WeightFormat::kF16 &&
         weight.in_features % 8 == 0 && weight.out_features % 4 == 0 &&
         weight.out_features <= CublasLtLinear::kMostOutputsPerInput * weight.in_features &&
         UnpackedBytes(weight) <= CublasLtLinear::kMostUnpacked;
}

ProductShape ShapeOf(const CublasLtLinear::Product& product) {
  ProductShape shape;
  shape.rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(product.rows)));
  shape.out_features = product.weight->out_features;
  shape.in_features = product.weight->in_features;
  shape.format = product.weight->format;
  shape.has_bias = product.bias != nullptr;
  return shape;
}

CublasLtProduct Unpacked(const CublasLtLinear::Product& product, const void* weight) {
  return {product.rows,
          product.weight->out_features,
          product.weight->in_features,
          product.x,
          weight,
          product.bias,
          product.out};
}

}  // namespace

CublasLtLinear::CublasLtLinear(GpuDevice& device, std::unique_ptr<CublasLt> library,
                               CublasLtOptions options)
    : device_(device),
      library_(std::move(library)),
      options_(std::move(options)),
      choices_(IdentityOf(device, *library_), options_.choices_file, options_.warn) {}

absl::StatusOr<std::unique_ptr<CublasLtLinear>> CublasLtLinear::Create(GpuDevice& device,
                                                                       const CublasLtApi& api,
                                                                       CublasLtOptions options) {
  QS_CHECK(options.unpack != nullptr);
  absl::StatusOr<std::unique_ptr<CublasLt>> library = CublasLt::Create(api);
  if (!library.ok()) return library.status();
  absl::StatusOr<Buffer> workspace = AllocateGpuBuffer(device, kWorkspaceBytes);
  if (!workspace.ok()) return workspace.status();
  std::unique_ptr<CublasLtLinear> linear(
      new CublasLtLinear(device, *std::move(library), std::move(options)));
  linear->workspace_ = *std::move(workspace);
  return linear;
}

void CublasLtLinear::Warn(absl::string_view what) {
  if (!warned_ && options_.warn) options_.warn(what);
  warned_ = true;
}

void CublasLtLinear::Reserve(const LinearWeight& weight) {
  const size_t bytes = UnpackedBytes(weight);
  if (!Suits(weight) || bytes <= unpacked_.bytes()) return;
  absl::StatusOr<Buffer> grown = AllocateGpuBuffer(device_, bytes);
  if (!grown.ok()) {
    Warn(absl::StrCat("some products are not done by cuBLASLt: ", grown.status().message()));
    return;
  }
  unpacked_ = *std::move(grown);
}

bool CublasLtLinear::IsCandidate(const Product& product) const {
  return product.rows >= kLeastRows && Suits(*product.weight) &&
         UnpackedBytes(*product.weight) <= unpacked_.bytes();
}

void CublasLtLinear::Multiply(const Product& product, bool may_measure,
                              absl::FunctionRef<void()> own, const std::function<void()>& finish) {
  if (!IsCandidate(product)) return own();
  const ProductShape shape = ShapeOf(product);
  const ProductChoice* known = choices_.Find(shape);
  if (known == nullptr && !may_measure) return own();
  if (known == nullptr) {
    choices_.Add(shape, Choose(product, own, finish));
    known = choices_.Find(shape);
  }
  if (known->own) return own();
  const absl::Status done = MultiplyBy(known->algo, product, finish);
  if (done.ok()) return;
  Warn(absl::StrCat("a product that cuBLASLt refuses is done without: ", done.message()));
  choices_.Add(shape, ProductChoice());
  own();
}

absl::Status CublasLtLinear::MultiplyBy(const CublasLtAlgo& algo, const Product& product,
                                        const std::function<void()>& finish) {
  options_.unpack(*product.weight, unpacked_.data());
  const absl::Status status =
      library_->Multiply(Unpacked(product, unpacked_.data()), algo, workspace_.data(),
                         workspace_.bytes(), device_.native_stream(GpuStream::kCompute));
  if (status.ok() && finish) finish();
  return status;
}

absl::StatusOr<absl::Duration> CublasLtLinear::TimeOf(absl::FunctionRef<absl::Status()> issue) {
  absl::Duration least = absl::InfiniteDuration();
  // The first one also loads code.
  for (int i = 0; i <= kTimings; ++i) {
    if (absl::Status idle = device_.Synchronize(options_.timeout); !idle.ok()) return idle;
    const absl::Time start = options_.now();
    for (int j = 0; j < kAtOnce; ++j) {
      if (absl::Status issued = issue(); !issued.ok()) return issued;
    }
    if (absl::Status done = device_.Synchronize(options_.timeout); !done.ok()) return done;
    if (i > 0) least = std::min(least, options_.now() - start);
  }
  return least;
}

ProductChoice CublasLtLinear::Choose(const Product& product, absl::FunctionRef<void()> own,
                                     const std::function<void()>& finish) {
  ProductChoice choice;
  const auto candidates =
      library_->Candidates(Unpacked(product, unpacked_.data()), workspace_.bytes(), kCandidates);
  if (!candidates.ok()) {
    Warn(absl::StrCat("a product is done without cuBLASLt: ", candidates.status().message()));
    return choice;
  }
  const absl::StatusOr<absl::Duration> own_time = TimeOf([&own] {
    own();
    return absl::OkStatus();
  });
  if (!own_time.ok()) return choice;  // of the device: every later wait tells it
  absl::Duration least = *own_time;
  for (const CublasLtAlgo& algo : *candidates) {
    const absl::StatusOr<absl::Duration> time =
        TimeOf([&] { return MultiplyBy(algo, product, finish); });
    if (!time.ok() || *time >= least) continue;
    least = *time;
    choice.own = false;
    choice.algo = algo;
  }
  return choice;
}

}  // namespace qwenserve
