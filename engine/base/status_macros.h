#ifndef QWENSERVE_ENGINE_BASE_STATUS_MACROS_H_
#define QWENSERVE_ENGINE_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function when `expr`, an absl::Status, is not OK.
#define QS_RETURN_IF_ERROR(expr)             \
  do {                                       \
    absl::Status qs_status_ = (expr);        \
    if (!qs_status_.ok()) return qs_status_; \
  } while (false)

#define QS_STATUS_CONCAT_INNER_(a, b) a##b
#define QS_STATUS_CONCAT_(a, b) QS_STATUS_CONCAT_INNER_(a, b)

#define QS_ASSIGN_OR_RETURN_IMPL_(tmp, lhs, expr) \
  auto tmp = (expr);                              \
  if (!tmp.ok()) return std::move(tmp).status();  \
  lhs = std::move(tmp).value()

// Assigns the value of `expr`, an absl::StatusOr, to `lhs` or returns its error.
#define QS_ASSIGN_OR_RETURN(lhs, expr) \
  QS_ASSIGN_OR_RETURN_IMPL_(QS_STATUS_CONCAT_(qs_status_or_, __LINE__), lhs, expr)

#endif  // QWENSERVE_ENGINE_BASE_STATUS_MACROS_H_
