#ifndef QWENSERVE_ENGINE_LOADER_ROUNDED_MATRIX_H_
#define QWENSERVE_ENGINE_LOADER_ROUNDED_MATRIX_H_

#include <memory>

#include "engine/loader/checkpoint.h"
#include "engine/loader/checkpoint_matrix.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// A matrix of floats, rounded while it is read (RoundGroup). Groups are those of the whole matrix,
// so a rank's slice has the codes and scales of the whole, whatever the cut. `group_size` >= its
// inputs: one scale per row. `tensor` must outlive the result.
std::unique_ptr<CheckpointMatrix> MakeRoundedMatrix(const TensorRef& tensor, WeightFormat format,
                                                    int64_t group_size);

// Widens `count` elements of a float tensor, from element `first` on.
void WidenElements(const TensorRef& tensor, int64_t first, int64_t count, float* out);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_LOADER_ROUNDED_MATRIX_H_
