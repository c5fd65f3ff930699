#ifndef QWENSERVE_TOOLS_QWENCTL_MEMORY_REPORT_H_
#define QWENSERVE_TOOLS_QWENCTL_MEMORY_REPORT_H_

#include <string>

#include "engine/base/json_reader.h"
#include "engine/model/model_config.h"
#include "engine/runtime/memory_plan.h"

namespace qwenserve {

// The memory table of a model (engine/runtime/memory_table.h), for people and for programs. `base`:
// the request but for what the table goes through.
std::string MemoryReportText(const ModelConfig& config, const MemoryRequest& base, double fraction);
Json MemoryReportJson(const ModelConfig& config, const MemoryRequest& base, double fraction);

}  // namespace qwenserve

#endif  // QWENSERVE_TOOLS_QWENCTL_MEMORY_REPORT_H_
