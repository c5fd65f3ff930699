#ifndef QWENSERVE_TESTS_KERNELS_CUDA_CUBLASLT_FAKE_CUBLASLT_H_
#define QWENSERVE_TESTS_KERNELS_CUDA_CUBLASLT_FAKE_CUBLASLT_H_

#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "kernels/cuda/cublaslt/cublaslt_api.h"
#include "kernels/dtype.h"

namespace qwenserve {

// A stand-in for libcublasLt: multiplies on the host, by columns as the library does, in a time
// that the test sets. Algorithms are numbers in data[0]. One at a time.
class FakeCublasLt {
 public:
  FakeCublasLt() { current = this; }
  ~FakeCublasLt() {
    EXPECT_TRUE(objects.empty()) << "something was not destroyed";
    current = nullptr;
  }

  std::vector<uint64_t> offered;               // what GetHeuristic returns
  std::map<uint64_t, absl::Duration> time_of;  // of one product
  std::set<uint64_t> failing;                  // products by these are refused
  std::vector<uint64_t> used;                  // one entry per product
  absl::Time now = absl::UnixEpoch();
  size_t version = 130000;
  int start_status = 0, heuristic_status = 0;
  int heuristics_asked = 0;
  uint32_t reductions = 7;
  uint64_t workspace = 0;

  static CublasLtApi Api() {
    CublasLtApi api;
    api.GetVersion = [] { return current->version; };
    api.GetStatusString = [](int) { return "a status"; };
    api.Create = [](void** handle) {
      return current->start_status != 0 ? current->start_status : current->New(handle);
    };
    api.Destroy = &Delete;
    api.DescCreate = [](void** desc, int compute, int scale) {
      EXPECT_EQ(compute, kCublasCompute32F);
      EXPECT_EQ(scale, kCudaF32);
      return current->New(desc);
    };
    api.DescDestroy = &Delete;
    api.DescSet = &Set;
    api.LayoutCreate = [](void** layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
      const int status = current->New(layout);
      *static_cast<Object*>(*layout) = {type, rows, columns, static_cast<uint64_t>(ld), {}};
      return status;
    };
    api.LayoutDestroy = &Delete;
    api.PreferenceCreate = [](void** preference) { return current->New(preference); };
    api.PreferenceDestroy = &Delete;
    api.PreferenceSet = [](void*, int attribute, const void* value, size_t bytes) {
      if (attribute == kCublasPrefReductions) std::memcpy(&current->reductions, value, bytes);
      if (attribute == kCublasPrefWorkspace) std::memcpy(&current->workspace, value, bytes);
      return 0;
    };
    api.GetHeuristic = &GetHeuristic;
    api.Matmul = &Matmul;
    return api;
  }

 private:
  struct Object {
    int type = 0;
    uint64_t rows = 0, columns = 0, leading = 0;
    std::map<int, uint64_t> attributes;
  };

  int New(void** object) {
    *object = new Object;
    objects.insert(*object);
    return 0;
  }
  static int Delete(void* object) {
    EXPECT_EQ(current->objects.erase(object), 1);
    delete static_cast<Object*>(object);
    return 0;
  }
  static int Set(void* object, int attribute, const void* value, size_t bytes) {
    uint64_t& stored = static_cast<Object*>(object)->attributes[attribute];
    stored = 0;
    std::memcpy(&stored, value, bytes);
    return 0;
  }
  static int GetHeuristic(void*, void*, void*, void*, void*, void*, void*, int asked,
                          CublasLtHeuristic* results, int* returned) {
    ++current->heuristics_asked;
    *returned = 0;
    for (const uint64_t algo : current->offered) {
      if (*returned == asked) break;
      results[(*returned)++].algo.data[0] = algo;
    }
    return current->heuristic_status;
  }
  static int Matmul(void*, void* desc, const void* alpha, const void* a, void* a_layout,
                    const void* b, void* b_layout, const void* beta, const void*, void*, void* d,
                    void* d_layout, const CublasLtAlgo* algo, void* workspace, size_t, void*) {
    EXPECT_NE(workspace, nullptr);
    EXPECT_EQ(*static_cast<const float*>(alpha), 1.0f);
    EXPECT_EQ(*static_cast<const float*>(beta), 0.0f);
    if (current->failing.count(algo->data[0]) != 0) return 15;
    current->used.push_back(algo->data[0]);
    current->now += current->time_of[algo->data[0]];
    auto& attributes = static_cast<Object*>(desc)->attributes;
    const Object &al = *static_cast<Object*>(a_layout), &bl = *static_cast<Object*>(b_layout),
                 &dl = *static_cast<Object*>(d_layout);
    EXPECT_EQ(attributes[kCublasDescTransA], 1u);
    EXPECT_EQ(al.type, kCudaBf16);
    EXPECT_EQ(bl.type, kCudaBf16);
    EXPECT_EQ(dl.type, kCudaF32);
    EXPECT_EQ(al.columns, dl.rows);
    EXPECT_EQ(al.rows, bl.rows);
    EXPECT_EQ(bl.columns, dl.columns);
    const float* bias = nullptr;
    if (attributes[kCublasDescEpilogue] == kCublasEpilogueBias) {
      std::memcpy(&bias, &attributes[kCublasDescBiasPointer], sizeof(bias));
    }
    const auto* left = static_cast<const uint16_t*>(a);
    const auto* right = static_cast<const uint16_t*>(b);
    for (uint64_t i = 0; i < dl.rows; ++i) {
      for (uint64_t j = 0; j < dl.columns; ++j) {
        float sum = bias == nullptr ? 0 : bias[i];
        for (uint64_t k = 0; k < al.rows; ++k) {
          sum += Bf16ToFloat(left[i * al.leading + k]) * Bf16ToFloat(right[j * bl.leading + k]);
        }
        static_cast<float*>(d)[j * dl.leading + i] = sum;
      }
    }
    return 0;
  }

  static inline FakeCublasLt* current = nullptr;
  std::set<void*> objects;
};

}  // namespace qwenserve

#endif  // QWENSERVE_TESTS_KERNELS_CUDA_CUBLASLT_FAKE_CUBLASLT_H_
