// How GpuLinear gets weights: pieces of whole tiles go through pinned memory to the device, in the
// checkpoint's order, and a kernel turns them into fragments there.
#include <algorithm>
#include <cstring>

#include "absl/time/time.h"
#include "kernels/check.h"
#include "kernels/cuda/gemm/gpu_linear.h"
#include "kernels/cuda/runtime/file_rows.h"
#include "kernels/cuda/runtime/gpu_buffer.h"

namespace qwenserve {
namespace {

constexpr absl::Duration kReleaseTimeout = absl::Minutes(2);
// Units of 16 bytes, so that what follows in a piece is aligned.
size_t Align(size_t bytes) { return (bytes + 15) / 16 * 16; }

WeightFormat FormatOf(DType dtype) {
  return dtype == DType::kBf16  ? WeightFormat::kBf16
         : dtype == DType::kF16 ? WeightFormat::kF16
                                : WeightFormat::kF32;
}

// Rows of a piece that is to fit into `bytes`: whole tiles, one at least.
int64_t PieceRows(size_t bytes, size_t row_bytes) {
  const auto tiles = static_cast<int64_t>(bytes / (row_bytes * kTileRows));
  return std::max<int64_t>(tiles, 1) * kTileRows;
}

// A piece of a quantised matrix: codes, scales, zeros.
struct QuantizedPiece {
  size_t scales = 0, zeros = 0, bytes = 0;  // offsets, and the size
};
QuantizedPiece PieceOf(const QuantizedShape& shape, int64_t rows) {
  QuantizedPiece piece;
  const auto scales = static_cast<size_t>(rows * shape.groups());
  piece.scales = Align(static_cast<size_t>(rows * shape.packed_inputs()));
  piece.zeros = piece.scales + Align(scales * 2);
  piece.bytes = piece.zeros + (shape.has_zeros ? Align(scales) : 0);
  return piece;
}

}  // namespace

size_t GpuWeightBytes(WeightFormat format, int64_t out_features, int64_t in_features) {
  QS_CHECK(!IsQuantized(format));
  if (format == WeightFormat::kF32) return static_cast<size_t>(out_features * in_features) * 4;
  return static_cast<size_t>(FragmentBytes(FragmentFormatOf(format), out_features, in_features));
}

size_t GpuWeightBytes(const QuantizedShape& shape) {
  const int64_t inputs = shape.packed_inputs();
  const int64_t scales = ScaleCount(shape.out_features, shape.groups());
  return static_cast<size_t>(
      FragmentBytes(FragmentFormatOf(shape.format), shape.out_features, inputs) +
      scales * (shape.has_zeros ? 3 : 2) + static_cast<int64_t>(shape.input_order.size()) * 4);
}

void GpuLinear::Order(GpuStream before, GpuStream after) {
  const GpuEvent event = device_.Record(before);
  device_.After(after, event);
  device_.Release(event);
}

absl::Status GpuLinear::PrepareStaging(size_t piece_bytes) {
  const size_t bytes = std::max(piece_bytes, upload_.buffer_bytes);
  if (ring_ != nullptr && ring_->buffer_bytes() >= bytes) return absl::OkStatus();
  ReleaseStaging();
  UploadOptions options = upload_;
  options.buffer_bytes = bytes;
  absl::StatusOr<std::unique_ptr<UploadRing>> ring = UploadRing::Create(device_, options);
  if (!ring.ok()) return ring.status();
  absl::StatusOr<Buffer> staging = AllocateGpuBuffer(device_, bytes);
  if (!staging.ok()) return staging.status();
  ring_ = *std::move(ring);
  staging_ = *std::move(staging);
  return absl::OkStatus();
}

void GpuLinear::ReleaseStaging() {
  if (ring_ == nullptr) return;
  ring_ = nullptr;
  // An error of the device stays with it: whoever asks next is told.
  device_.Synchronize(kReleaseTimeout).IgnoreError();
  staging_ = Buffer();
}

void GpuLinear::Repack(const LinearWeight& weight, const void* from, int64_t first_row,
                       int64_t rows, int64_t inputs) {
  const FragmentFormat format = FragmentFormatOf(weight.format);
  const int64_t granules = GranulesOf(format, inputs);
  const int64_t tile_bytes = granules * GranuleBytes(format);
  const RepackArgs args = {.rows = from,
                           .data = weight.data.as<uint8_t>() + first_row / kTileRows * tile_bytes,
                           .num_rows = static_cast<int32_t>(rows),
                           .inputs = static_cast<int32_t>(inputs),
                           .granules = static_cast<int32_t>(granules)};
  const GpuKernel& kernel = format == FragmentFormat::kInt4   ? kernels_.repack_int4
                            : format == FragmentFormat::kInt8 ? kernels_.repack_int8
                                                              : kernels_.repack_16bit;
  const int64_t lanes = TilesOf(rows) * tile_bytes / kLaneBytes;
  device_.Launch(kernel, {.grid_x = static_cast<uint32_t>(CeilDiv(lanes, kPlainThreads))}, args,
                 GpuStream::kCopy);
}

absl::Status GpuLinear::UploadRows(absl::Span<const RowBlock> blocks, const LinearWeight& weight,
                                   size_t element_bytes) {
  const size_t row_bytes = static_cast<size_t>(weight.in_features) * element_bytes;
  const int64_t piece_rows = PieceRows(ring_->buffer_bytes(), row_bytes);
  const auto rows_of = [&](int64_t piece) {
    return std::min(piece_rows, weight.out_features - piece * piece_rows);
  };
  return ring_->Run(
      CeilDiv(weight.out_features, piece_rows),
      [&](int64_t piece, void* buffer) {
        const int64_t first = piece * piece_rows;
        return ReadBlockRows(blocks, weight.in_features, first, first + rows_of(piece), buffer);
      },
      [&](int64_t piece, const void* buffer) {
        const int64_t first = piece * piece_rows, rows = rows_of(piece);
        const size_t bytes = static_cast<size_t>(rows) * row_bytes;
        if (weight.format == WeightFormat::kF32) {
          char* to = weight.data.as<char>() + static_cast<size_t>(first) * row_bytes;
          device_.CopyToDevice(to, buffer, bytes, GpuStream::kCopy);
        } else {
          device_.CopyToDevice(staging_.data(), buffer, bytes, GpuStream::kCopy);
          Repack(weight, staging_.data(), first, rows, weight.in_features);
        }
        return absl::OkStatus();
      });
}

absl::StatusOr<LinearWeight> GpuLinear::PackLinear(absl::Span<const RowBlock> blocks,
                                                   int64_t in_features) {
  QS_CHECK(!blocks.empty() && in_features > 0 && in_features < INT32_MAX);
  LinearWeight weight;
  const DType dtype = blocks[0].dtype;
  weight.format = FormatOf(dtype);
  weight.in_features = in_features;
  for (const RowBlock& block : blocks) {
    QS_CHECK(block.dtype == dtype);
    weight.out_features += block.rows;
  }
  QS_CHECK(weight.out_features > 0 && weight.out_features < INT32_MAX);
  const size_t row_bytes = static_cast<size_t>(in_features) * DTypeBytes(dtype);
  absl::Status status = PrepareStaging(row_bytes * kTileRows);
  if (status.ok()) status = Reserve(weight);
  if (!status.ok()) return status;
  absl::StatusOr<Buffer> data =
      AllocateGpuBuffer(device_, GpuWeightBytes(weight.format, weight.out_features, in_features));
  if (!data.ok()) return data.status();
  weight.data = *std::move(data);
  Order(GpuStream::kCompute, GpuStream::kCopy);
  status = UploadRows(blocks, weight, DTypeBytes(dtype));
  Order(GpuStream::kCopy, GpuStream::kCompute);
  if (!status.ok()) return status;
  return weight;
}

absl::Status GpuLinear::UploadQuantized(const QuantizedShape& shape, const QuantizedRowSource& rows,
                                        const LinearWeight& weight) {
  const QuantizedPiece tile = PieceOf(shape, kTileRows);
  const int64_t piece_rows = PieceRows(ring_->buffer_bytes(), tile.bytes / kTileRows);
  const int64_t groups = shape.groups();
  const auto rows_of = [&](int64_t piece) {
    return std::min(piece_rows, shape.out_features - piece * piece_rows);
  };
  return ring_->Run(
      CeilDiv(shape.out_features, piece_rows),
      [&](int64_t piece, void* buffer) {
        const int64_t first = piece * piece_rows, count = rows_of(piece);
        const QuantizedPiece layout = PieceOf(shape, count);
        auto* base = static_cast<uint8_t*>(buffer);
        std::memset(base, 0, layout.bytes);
        QuantizedRows to;
        to.codes = base;
        to.scales = reinterpret_cast<uint16_t*>(base + layout.scales);
        to.zeros = shape.has_zeros ? base + layout.zeros : nullptr;
        return rows.ReadRows(first, first + count, to);
      },
      [&](int64_t piece, const void* buffer) {
        const int64_t first = piece * piece_rows, count = rows_of(piece);
        const QuantizedPiece layout = PieceOf(shape, count);
        device_.CopyToDevice(staging_.data(), buffer, layout.bytes, GpuStream::kCopy);
        const auto* staged = staging_.as<uint8_t>();
        Repack(weight, staged, first, count, shape.packed_inputs());
        const int64_t at = first * groups;  // whole tiles
        const RepackScalesArgs args = {
            .scales = reinterpret_cast<const uint16_t*>(staged + layout.scales),
            .zeros = shape.has_zeros ? staged + layout.zeros : nullptr,
            .packed_scales = weight.scales.as<uint16_t>() + at,
            .packed_zeros = shape.has_zeros ? weight.zeros.as<uint8_t>() + at : nullptr,
            .num_rows = static_cast<int32_t>(count),
            .groups = static_cast<int32_t>(groups)};
        const int64_t scales = ScaleCount(count, groups);
        device_.Launch(kernels_.repack_scales,
                       {.grid_x = static_cast<uint32_t>(CeilDiv(scales, kPlainThreads))}, args,
                       GpuStream::kCopy);
        return absl::OkStatus();
      });
}

absl::StatusOr<LinearWeight> GpuLinear::PackQuantized(const QuantizedShape& shape,
                                                      const QuantizedRowSource& rows) {
  QS_CHECK(IsQuantized(shape.format) && shape.out_features > 0 && shape.in_features > 0);
  QS_CHECK(shape.group_size > 0 && shape.group_size % kEntryInputs == 0);
  QS_CHECK(shape.packed_inputs() % kEntryInputs == 0);
  // GroupMagic is exact up to here.
  QS_CHECK(shape.packed_inputs() / kEntryInputs < (1 << 15) - GranuleInputs(FragmentFormat::kInt4));
  LinearWeight weight;
  weight.format = shape.format;
  weight.out_features = shape.out_features;
  weight.in_features = shape.in_features;
  weight.packed_inputs = shape.packed_inputs();
  weight.group_size = shape.group_size;
  absl::Status status = PrepareStaging(PieceOf(shape, kTileRows).bytes);
  const auto take = [&](Buffer* buffer, size_t bytes) {
    if (status.ok()) status = Grow(buffer, bytes);
  };
  const int64_t scales = ScaleCount(shape.out_features, shape.groups());
  QS_CHECK(scales < INT32_MAX);
  take(&weight.data, static_cast<size_t>(FragmentBytes(FragmentFormatOf(shape.format),
                                                       shape.out_features, weight.packed_inputs)));
  take(&weight.scales, static_cast<size_t>(scales) * 2);
  if (shape.has_zeros) take(&weight.zeros, static_cast<size_t>(scales));
  if (!shape.input_order.empty()) {
    take(&weight.input_order, shape.input_order.size() * sizeof(int32_t));
  }
  if (status.ok()) status = Reserve(weight);
  if (!status.ok()) return status;
  Order(GpuStream::kCompute, GpuStream::kCopy);
  if (!shape.input_order.empty()) {
    // Ordinary memory, so the copy waits.
    device_.CopyToDevice(weight.input_order.data(), shape.input_order.data(),
                         shape.input_order.size() * sizeof(int32_t), GpuStream::kCopy);
  }
  status = UploadQuantized(shape, rows, weight);
  Order(GpuStream::kCopy, GpuStream::kCompute);
  if (!status.ok()) return status;
  return weight;
}

}  // namespace qwenserve
