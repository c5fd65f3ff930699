#!/usr/bin/env bash
# Lets a libFuzzer target search from a corpus for QWENSERVE_FUZZ_SECONDS (30). What it finds stays
# in a temporary folder; an input that fails is kept beside the target and named.
#
#   search.sh TARGET CORPUS
set -euo pipefail

target=$1 corpus=$2
found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
"$target" "$found" "$corpus" -max_total_time="${QWENSERVE_FUZZ_SECONDS:-30}" -max_len=65536 \
  -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 -artifact_prefix="$target-" 2>&1 | tail -25
