#!/usr/bin/env bash
# Runs the compiler given in the arguments and keeps what ptxas says about the kernels (-Xptxas=-v)
# in OBJECT.ptxas. Everything else it says goes to stderr as ever.
set -uo pipefail

object=
previous=
for argument in "$@"; do
  [[ $previous == -o ]] && object=$argument
  previous=$argument
done
if [[ $object != *.o ]]; then
  exec "$@"
fi

"$@" 2>"$object.stderr"
status=$?
about='^ptxas info|^ +[0-9]+ bytes stack frame'
grep -E "$about" "$object.stderr" >"$object.ptxas"
grep -vE "$about" "$object.stderr" >&2
rm -f "$object.stderr"
exit "$status"
