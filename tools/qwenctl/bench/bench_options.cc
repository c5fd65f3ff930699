#include "tools/qwenctl/bench/bench_options.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"

namespace qwenserve {
namespace {

constexpr uint32_t kMaxLength = 1u << 20;
// A lognormal has no end; a cluster has.
constexpr double kMaxMedians = 64;

absl::StatusOr<uint32_t> ParseLength(absl::string_view text) {
  uint32_t value = 0;
  if (absl::SimpleAtoi(text, &value) && value >= 1 && value <= kMaxLength) return value;
  return absl::InvalidArgumentError(
      absl::StrCat("'", text, "' is not a number of tokens from 1 to ", kMaxLength));
}

}  // namespace

absl::StatusOr<LengthSpec> LengthSpec::Parse(absl::string_view text) {
  LengthSpec spec;
  const std::vector<std::string> parts = absl::StrSplit(text, ':');
  if (parts[0] == "lognormal") {
    spec.kind_ = Kind::kLognormal;
    if (parts.size() != 3 || !absl::SimpleAtod(parts[2], &spec.sigma_) ||
        !(spec.sigma_ >= 0 && spec.sigma_ <= 4)) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", text, "' is not lognormal:MEDIAN:SIGMA with a sigma from 0 to 4"));
    }
    QS_ASSIGN_OR_RETURN(spec.low_, ParseLength(parts[1]));
    return spec;
  }
  if (parts.size() > 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is not LENGTH, LOW:HIGH or lognormal:MEDIAN:SIGMA"));
  }
  QS_ASSIGN_OR_RETURN(spec.low_, ParseLength(parts.front()));
  QS_ASSIGN_OR_RETURN(spec.high_, ParseLength(parts.back()));
  if (spec.low_ > spec.high_) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' begins above its end"));
  }
  return spec;
}

uint32_t LengthSpec::Draw(std::mt19937_64& random) const {
  if (kind_ == Kind::kUniform) {
    return std::uniform_int_distribution<uint32_t>(low_, high_)(random);
  }
  const double factor = std::exp(std::normal_distribution<double>(0, sigma_)(random));
  const double length = std::round(low_ * std::min(factor, kMaxMedians));
  return static_cast<uint32_t>(std::clamp(length, 1.0, static_cast<double>(kMaxLength)));
}

absl::StatusOr<GoodputLimits> GoodputLimits::Parse(absl::string_view text) {
  GoodputLimits limits;
  if (text.empty()) return limits;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    const std::pair<absl::string_view, absl::string_view> pair =
        absl::StrSplit(part, absl::MaxSplits(':', 1));
    absl::Duration limit;
    std::optional<absl::Duration>* field = pair.first == "ttft"  ? &limits.ttft
                                           : pair.first == "itl" ? &limits.inter_token
                                           : pair.first == "e2e" ? &limits.end_to_end
                                                                 : nullptr;
    if (field == nullptr || !absl::ParseDuration(pair.second, &limit) ||
        limit <= absl::ZeroDuration()) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", part, "' is not ttft:TIME, itl:TIME or e2e:TIME, such as ttft:500ms"));
    }
    *field = limit;
  }
  return limits;
}

}  // namespace qwenserve
