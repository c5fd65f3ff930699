#include "kernels/cuda/sample/finish_rows.h"
#include "kernels/cuda/sample/scan_rows.h"
#include "kernels/cuda/sample/select_rows.h"

namespace qwenserve {
namespace QS_DEVICE_NAMESPACE {

static_assert(sizeof(ScanRows::Args) <= 4096);
static_assert(sizeof(BlockScratch) <= kSampleScanBytes);
static_assert(sizeof(MeasureRows::Shared) <= kSampleMeasureBytes);
static_assert(sizeof(CollectRows::Shared) <= kSampleCollectBytes);
static_assert(sizeof(RowOrder::Shared) <= kSampleFinishBytes);

SamplingKernels GetSamplingKernels() {
  return {MakeKernel<ScanRows>("sample_scan"), MakeKernel<MeasureRows>("sample_measure"),
          MakeKernel<CollectRows>("sample_collect"), MakeKernel<ScoreRows>("sample_score"),
          MakeKernel<FinishRows>("sample_finish")};
}

}  // namespace QS_DEVICE_NAMESPACE
}  // namespace qwenserve
