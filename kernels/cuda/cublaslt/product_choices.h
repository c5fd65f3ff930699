#ifndef QWENSERVE_KERNELS_CUDA_CUBLASLT_PRODUCT_CHOICES_H_
#define QWENSERVE_KERNELS_CUDA_CUBLASLT_PRODUCT_CHOICES_H_

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/cuda/cublaslt/cublaslt_api.h"
#include "kernels/linear_weight.h"

namespace qwenserve {

// Which products a choice is for.
struct ProductShape {
  int64_t rows = 0;  // at most; a power of two
  int64_t out_features = 0, in_features = 0;
  WeightFormat format = WeightFormat::kBf16;
  bool has_bias = false;

  friend bool operator<(const ProductShape& a, const ProductShape& b) { return a.Key() < b.Key(); }

 private:
  std::tuple<int64_t, int64_t, int64_t, WeightFormat, bool> Key() const {
    return {rows, out_features, in_features, format, has_bias};
  }
};

struct ProductChoice {
  bool own = true;    // our own kernel is the fastest
  CublasLtAlgo algo;  // otherwise
};

// Choices made by measuring, kept in a file so that the next start need not measure again. A file
// holds the choices for several identities (GPU, driver, version of cuBLASLt); the text is one line
// per choice with tabs between its fields. One thread; several of these, in processes or threads,
// may share a file: it is replaced as a whole, with what others have added before. What two add at
// the same moment, one of them may lose: it is then measured again by the next process.
class ProductChoices {
 public:
  // `file` empty: kept in memory only. A file that cannot be read, or has a line that is not
  // understood, counts as empty, and `warn` is told.
  ProductChoices(std::string identity, std::string file,
                 std::function<void(absl::string_view)> warn);

  // Null: not chosen yet.
  const ProductChoice* Find(const ProductShape& shape) const;
  void Add(const ProductShape& shape, const ProductChoice& choice);

 private:
  // The file's lines of other identities and, as `own`, the choices for this one. False: damaged.
  bool Read(std::vector<std::string>* others, std::map<ProductShape, ProductChoice>* own);
  void Write();

  const std::string identity_;
  const std::string file_;
  const std::function<void(absl::string_view)> warn_;
  std::map<ProductShape, ProductChoice> choices_;
  bool warned_ = false;
};

}  // namespace qwenserve

#endif  // QWENSERVE_KERNELS_CUDA_CUBLASLT_PRODUCT_CHOICES_H_
