#!/bin/sh
# The object of an instruction set may define its kernel table and nothing else that other objects
# could link to: an inline function compiled with AVX2 would otherwise run on machines without it.
# Usage: isa_symbols_test.sh LIBRARY MEMBER TABLE
set -eu
symbols=$(nm -C --defined-only "$1" | awk -v member="$2:" '
  /:$/ { inside = ($0 == member); next }
  inside && $2 ~ /^[A-Zuvw]$/ { print $2, $3, $4, $5 }')
expected=$(printf '%s\n' "$symbols" | grep -c "::$3 *\$") || true
if [ "$expected" != 1 ] || [ "$(printf '%s\n' "$symbols" | wc -l)" != 1 ]; then
  printf 'symbols of %s that others can link to, expected only %s:\n%s\n' "$2" "$3" "$symbols" >&2
  exit 1
fi
