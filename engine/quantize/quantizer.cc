#include "engine/quantize/quantizer.h"

#include <chrono>
#include <filesystem>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "engine/base/status_macros.h"
#include "engine/quantize/gptq_format.h"
#include "engine/quantize/layer_source.h"
#include "engine/quantize/output_folder.h"
#include "engine/quantize/safetensors_writer.h"

namespace qwenserve {
namespace {

using Clock = std::chrono::steady_clock;

constexpr WeightField kQuantizedFields[] = {WeightField::kQkv, WeightField::kAttnOut,
                                            WeightField::kGateUp, WeightField::kDown};

bool IsQuantizedField(WeightField field) {
  for (WeightField quantized : kQuantizedFields) {
    if (field == quantized) return true;
  }
  return false;
}

// "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight".
absl::string_view ModuleOf(const TensorRef& tensor) {
  absl::string_view name = tensor.name;
  return name.substr(0, name.size() - absl::string_view(".weight").size());
}

// "up_proj".
absl::string_view ShortName(absl::string_view module) {
  return module.substr(module.rfind('.') + 1);
}

const char* DTypeTag(DType dtype) {
  switch (dtype) {
    case DType::kBf16:
      return "BF16";
    case DType::kF16:
      return "F16";
    default:
      return "F32";
  }
}

// Adds where an error happened.
absl::Status In(absl::string_view where, const absl::Status& status) {
  if (status.ok() || absl::IsCancelled(status)) return status;
  return absl::Status(status.code(), absl::StrCat(where, ": ", status.message()));
}

class Quantizer {
 public:
  Quantizer(const QuantizeOptions& options, const LayerSource& source)
      : options_(options), source_(source), pool_(options.num_threads, {}) {}

  absl::Status Run(const CalibrationIds& ids,
                   const std::function<void(const QuantizeProgress&)>& progress,
                   const std::function<bool()>& cancelled);
  const QuantizeReport& report() const { return report_; }

 private:
  std::vector<TensorPlan> PlanTensors();
  absl::Status CheckModules() const;
  absl::Status CopyTensors();
  absl::Status WriteConfigs();
  bool NeedsZeroBias(const TensorRef& weight) const;

  // Quantises one field and returns its weights as the model will see them.
  absl::StatusOr<LinearWeight> QuantizeField(int64_t layer, WeightField field,
                                             absl::StatusOr<Hessian> hessian);
  absl::Status WriteModules(const FieldTensors& field, const QuantizedMatrix& matrix);
  void Report(int64_t layer, const FieldTensors& field, const GptqResult& result);
  // Multiply-adds of one field, calibration included.
  double Work(const FieldTensors& field) const;

  const QuantizeOptions& options_;
  const LayerSource& source_;
  ThreadPool pool_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<OutputFolder> folder_;
  std::unique_ptr<SafetensorsWriter> writer_;
  std::function<void(const QuantizeProgress&)> progress_;
  std::function<bool()> cancelled_;
  QuantizeReport report_;
  int64_t matrices_ = 0;
  double work_done_ = 0;
  double work_total_ = 0;
  Clock::time_point began_;
};

bool Quantizer::NeedsZeroBias(const TensorRef& weight) const {
  return source_.config().style == CheckpointStyle::kQwen1 &&
         source_.checkpoint().Find(absl::StrCat(ModuleOf(weight), ".bias")) == nullptr;
}

absl::Status Quantizer::CheckModules() const {
  for (int64_t layer = 0; layer < source_.config().num_layers; ++layer) {
    for (WeightField field : kQuantizedFields) {
      for (const TensorRef* tensor : source_.Find(layer, field)->tensors) {
        QS_RETURN_IF_ERROR(
            In(tensor->file, CheckFitsGptqLayout(ModuleOf(*tensor), tensor->shape[0],
                                                 tensor->shape[1], options_.gptq.bits)));
      }
    }
  }
  return absl::OkStatus();
}

// Everything that will be in the files: layers in order, what is copied with its layer.
std::vector<TensorPlan> Quantizer::PlanTensors() {
  std::vector<TensorPlan> plans;
  for (int64_t layer = -1; layer < source_.config().num_layers; ++layer) {
    for (int f = 0; f <= static_cast<int>(WeightField::kDown); ++f) {
      const auto field = static_cast<WeightField>(f);
      const FieldTensors* found = source_.Find(layer, field);
      if (found == nullptr) continue;
      for (const TensorRef* tensor : found->tensors) {
        if (!IsQuantizedField(field)) {
          plans.push_back({tensor->name, DTypeTag(tensor->dtype), tensor->shape});
          continue;
        }
        for (TensorPlan& plan : GptqTensorPlans(ModuleOf(*tensor), tensor->shape[0],
                                                tensor->shape[1], options_.gptq)) {
          plans.push_back(std::move(plan));
        }
        if (NeedsZeroBias(*tensor)) {
          plans.push_back({absl::StrCat(ModuleOf(*tensor), ".bias"), "F16", {tensor->shape[0]}});
        }
      }
      if (IsQuantizedField(field)) work_total_ += Work(*found);
    }
  }
  for (const TensorPlan& plan : plans) report_.written_bytes += plan.bytes();
  return plans;
}

absl::Status Quantizer::CopyTensors() {
  for (int64_t layer = -1; layer < source_.config().num_layers; ++layer) {
    for (int f = 0; f <= static_cast<int>(WeightField::kDown); ++f) {
      const auto field = static_cast<WeightField>(f);
      const FieldTensors* found = source_.Find(layer, field);
      if (found == nullptr || IsQuantizedField(field)) continue;
      for (const TensorRef* tensor : found->tensors) {
        if (cancelled_()) return absl::CancelledError("interrupted");
        QS_RETURN_IF_ERROR(writer_->Write(tensor->name, tensor->data, tensor->bytes));
        source_.checkpoint().ReleasePages(*tensor);
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Quantizer::WriteConfigs() {
  const Json quantization = GptqQuantizeConfig(options_.gptq);
  QS_ASSIGN_OR_RETURN(Json config, ReadJsonFile(options_.model_dir + "/config.json"));
  config["quantization_config"] = quantization;
  config["quantization_config"]["quant_method"] = "gptq";
  QS_RETURN_IF_ERROR(folder_->WriteFile("config.json", config.dump(2) + "\n"));
  return folder_->WriteFile("quantize_config.json", quantization.dump(2) + "\n");
}

double Quantizer::Work(const FieldTensors& field) const {
  const auto in = static_cast<double>(field.columns), out = static_cast<double>(field.rows);
  const auto tokens = static_cast<double>(report_.calibration_tokens);
  return tokens * in * (in / 2 + 1.5 * out) + in * in * (in / 3 + 1.5 * out);
}

void Quantizer::Report(int64_t layer, const FieldTensors& field, const GptqResult& result) {
  QuantizeProgress progress;
  progress.layer = layer;
  progress.num_layers = source_.config().num_layers;
  progress.modules = absl::StrJoin(field.tensors, ", ", [](std::string* out, const auto* tensor) {
    absl::StrAppend(out, ShortName(ModuleOf(*tensor)));
  });
  progress.relative_error = result.relative_error;
  progress.damping = result.damping;
  work_done_ += Work(field);
  const double seconds = std::chrono::duration<double>(Clock::now() - began_).count();
  progress.seconds_left = seconds * (work_total_ - work_done_) / work_done_;
  if (progress_) progress_(progress);

  ++matrices_;
  report_.mean_relative_error +=
      (result.relative_error - report_.mean_relative_error) / static_cast<double>(matrices_);
  if (result.relative_error >= report_.worst_relative_error) {
    report_.worst_relative_error = result.relative_error;
    report_.worst = absl::StrCat("layer ", layer, ", ", progress.modules);
  }
}

absl::Status Quantizer::WriteModules(const FieldTensors& field, const QuantizedMatrix& matrix) {
  int64_t begin = 0;
  for (const TensorRef* tensor : field.tensors) {
    const int64_t end = begin + tensor->shape[0];
    const GptqTensors packed = PackGptq(matrix, begin, end);
    const auto write = [&](absl::string_view suffix, const auto& values) {
      return writer_->Write(absl::StrCat(ModuleOf(*tensor), suffix), values.data(),
                            static_cast<int64_t>(values.size() * sizeof(values[0])));
    };
    QS_RETURN_IF_ERROR(write(".qweight", packed.qweight));
    QS_RETURN_IF_ERROR(write(".qzeros", packed.qzeros));
    QS_RETURN_IF_ERROR(write(".scales", packed.scales));
    QS_RETURN_IF_ERROR(write(".g_idx", packed.g_idx));
    if (NeedsZeroBias(*tensor)) {
      QS_RETURN_IF_ERROR(write(".bias", std::vector<uint16_t>(static_cast<size_t>(end - begin))));
    }
    begin = end;
  }
  return absl::OkStatus();
}

absl::StatusOr<LinearWeight> Quantizer::QuantizeField(int64_t layer, WeightField field,
                                                      absl::StatusOr<Hessian> hessian) {
  const FieldTensors& found = *source_.Find(layer, field);
  const std::string where = found.tensors.front()->name;
  QS_RETURN_IF_ERROR(In(where, hessian.status()));
  if (cancelled_()) return absl::CancelledError("interrupted");
  absl::StatusOr<GptqResult> result =
      SolveGptq(pool_, source_.Read(layer, field), found.rows, hessian->Take(), options_.gptq);
  QS_RETURN_IF_ERROR(In(where, result.status()));
  QS_RETURN_IF_ERROR(WriteModules(found, result->matrix));
  std::vector<float> values(static_cast<size_t>(found.rows * found.columns));
  Dequantize(result->matrix, values.data());
  const RowBlock block{values.data(), DType::kF32, found.rows, found.columns};
  QS_ASSIGN_OR_RETURN(LinearWeight weight,
                      backend_->PackLinear(absl::MakeConstSpan(&block, 1), found.columns));
  Report(layer, found, *result);
  return weight;
}

absl::Status Quantizer::Run(const CalibrationIds& ids,
                            const std::function<void(const QuantizeProgress&)>& progress,
                            const std::function<bool()>& cancelled) {
  progress_ = progress;
  cancelled_ = cancelled;
  began_ = Clock::now();
  report_.calibration_tokens =
      static_cast<int64_t>(ids.size()) * static_cast<int64_t>(ids.front().size());
  for (const TensorRef& tensor : source_.checkpoint().tensors()) {
    report_.source_bytes += tensor.bytes;
  }
  QS_RETURN_IF_ERROR(CheckModules());
  CpuBackendOptions cpu;
  cpu.num_threads = options_.num_threads;
  cpu.isa = options_.isa;
  QS_ASSIGN_OR_RETURN(backend_, MakeCpuBackend(cpu));
  QS_ASSIGN_OR_RETURN(folder_, OutputFolder::Create(options_.out_dir));
  QS_ASSIGN_OR_RETURN(
      writer_, SafetensorsWriter::Create(folder_->dir(), PlanTensors(), options_.max_file_bytes));
  QS_RETURN_IF_ERROR(WriteConfigs());
  QS_RETURN_IF_ERROR(folder_->CopyCompanions(options_.model_dir));
  QS_RETURN_IF_ERROR(CopyTensors());
  QS_ASSIGN_OR_RETURN(const auto pass,
                      CalibrationPass::Create(source_, ids, *backend_, pool_, cancelled_));
  for (int64_t layer = 0; layer < source_.config().num_layers; ++layer) {
    const auto quantize = [&](WeightField field, absl::StatusOr<Hessian> hessian) {
      return QuantizeField(layer, field, std::move(hessian));
    };
    QS_RETURN_IF_ERROR(pass->Begin(layer));
    QS_ASSIGN_OR_RETURN(LinearWeight qkv, quantize(WeightField::kQkv, pass->QkvInputs()));
    QS_ASSIGN_OR_RETURN(LinearWeight attn_out,
                        quantize(WeightField::kAttnOut, pass->AttnOutInputs(qkv)));
    QS_ASSIGN_OR_RETURN(LinearWeight gate_up,
                        quantize(WeightField::kGateUp, pass->GateUpInputs(attn_out)));
    QS_ASSIGN_OR_RETURN(LinearWeight down, quantize(WeightField::kDown, pass->DownInputs(gate_up)));
    QS_RETURN_IF_ERROR(pass->End(gate_up, down));
  }
  QS_RETURN_IF_ERROR(writer_->Finish());
  if (cancelled_()) return absl::CancelledError("interrupted");
  return folder_->Commit();
}

// A checkpoint with codes instead of weights, whoever made it.
absl::Status CheckNotQuantized(const std::string& model_dir) {
  const std::string path = model_dir + "/config.json";
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return absl::OkStatus();  // told by Checkpoint
  QS_ASSIGN_OR_RETURN(const Json config, ReadJsonFile(path));
  const auto found = config.is_object() ? config.find("quantization_config") : config.end();
  if (found == config.end() || found->is_null()) return absl::OkStatus();
  const Json method = found->is_object() ? found->value("quant_method", Json()) : Json();
  return absl::FailedPreconditionError(
      absl::StrCat(path, ": \"quantization_config\" (", ShownJson(method),
                   ") says that this model is quantised already; give its bf16, fp16 or f32 "
                   "checkpoint"));
}

}  // namespace

absl::StatusOr<QuantizeReport> QuantizeCheckpoint(
    const QuantizeOptions& options, const CalibrationIds& ids,
    const std::function<void(const QuantizeProgress&)>& progress,
    const std::function<bool()>& cancelled) {
  QS_RETURN_IF_ERROR(CheckGptqOptions(options.gptq));
  QS_RETURN_IF_ERROR(CheckNotQuantized(options.model_dir));
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<Checkpoint> checkpoint,
                      Checkpoint::Open(options.model_dir));
  QS_ASSIGN_OR_RETURN(const LayerSource source, LayerSource::Create(*checkpoint));
  Quantizer quantizer(options, source);
  QS_RETURN_IF_ERROR(quantizer.Run(ids, progress, cancelled));
  return quantizer.report();
}

}  // namespace qwenserve
