#!/bin/sh
# The object of the AVX2 kernels holds no instruction beyond AVX2, FMA and F16C: registers above 15,
# wide or mask registers, and dot products.
# Usage: isa_instructions_test.sh OBJDUMP LIBRARY MEMBER
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
(cd "$directory" && ar x "$2" "$3")
"$1" -d --no-show-raw-insn "$directory/$3" > "$directory/listing"
grep -q vpmaddubsw "$directory/listing"  # the listing is one
! grep -E 'zmm|%k[0-7]|%[xy]mm(1[6-9]|2[0-9]|3[01])|vpdp' "$directory/listing" >&2
