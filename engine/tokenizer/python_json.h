#ifndef QWENSERVE_ENGINE_TOKENIZER_PYTHON_JSON_H_
#define QWENSERVE_ENGINE_TOKENIZER_PYTHON_JSON_H_

#include <string>

#include "engine/base/json_reader.h"

namespace qwenserve {

// `value` as Python's json.dumps(value, ensure_ascii=False) spells it, which is how models saw
// their tools in training: ", " and ": " between, keys in their order, floats by repr. Integers
// beyond 64 bits have become floats in reading and come out as such.
std::string ToPythonJson(const Json& value);

}  // namespace qwenserve

#endif  // QWENSERVE_ENGINE_TOKENIZER_PYTHON_JSON_H_
