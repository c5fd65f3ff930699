#ifndef QWENSERVE_ENGINE_MODEL_LAYERS_H_
#define QWENSERVE_ENGINE_MODEL_LAYERS_H_

#include "absl/status/status.h"
#include "engine/model/qwen.h"
#include "kernels/buffer.h"

namespace qwenserve {

// The places where the ranks of a group meet, so that the forward pass itself names none of them.
// A communicator works on its rank's device memory, after the backend's ops issued before it and
// before those issued after it.

// activations.residual = the embeddings of batch.ids: every rank looks up what its part of the
// vocabulary holds, and the sum over ranks is the row, exactly, since all others hold zero.
absl::Status EmbedTokens(const ModelState& state, const ForwardBatch& batch);

// activations.partial holds this rank's part of a projection. Adds the sum over ranks to
// activations.residual and leaves the norm of that in activations.hidden.
absl::Status ReduceAddNorm(const ModelState& state, int64_t rows, const Buffer& norm);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_MODEL_LAYERS_H_
