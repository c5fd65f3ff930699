#!/usr/bin/env bash
# Builds the llama.cpp that tools/bench/compare_llama_cpp.py measures against, twice: for this very
# CPU, and held to AVX2 + FMA + F16C. The source is the one inside the source distribution of
# llama-cpp-python, so that a package index is all that is needed.
#
#   tools/bench/llama_cpp/build.sh FOLDER [VERSION] [JOBS]
#
# FOLDER must be outside any git tree: llama.cpp's build would read its commit. Afterwards it has
# build-native/bin and build-avx2/bin, with llama-bench and llama-batched-bench, and venv, which
# make_gguf.py runs in. What is there already is not made again.
set -euo pipefail

if [[ $# -lt 1 ]]; then
  sed -n '2,/^set/p' "$0" | sed '$d; s/^# \{0,1\}//'
  exit 2
fi
mkdir -p "$1"
cd "$1"
version="${2:-0.3.36}"
jobs="${3:-2}"
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  echo "build.sh: $PWD is inside a git tree" >&2
  exit 2
fi

[[ -x venv/bin/python ]] || python3 -m venv venv
venv/bin/python -c 'import gguf, numpy' 2>/dev/null || venv/bin/pip install --quiet gguf numpy

source="llama_cpp_python-$version"
if [[ ! -d "$source" ]]; then
  venv/bin/pip download --quiet --no-deps --no-binary :all: --dest sdist \
    "llama-cpp-python==$version" ||
    venv/bin/pip download --quiet --no-deps --no-binary llama-cpp-python --dest sdist \
      "llama-cpp-python==$version"
  tar -xzf "sdist/$source.tar.gz"
fi

# Release and everything else as llama.cpp ships it; only what a benchmark doesn't need is off.
common=(-G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF
  -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF
  -DLLAMA_BUILD_TOOLS=ON)
native=(-DGGML_NATIVE=ON)
avx2=(-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON
  -DGGML_BMI2=ON -DGGML_AVX_VNNI=OFF -DGGML_AVX512=OFF)

build() {
  local folder="$1"
  shift
  cmake -S "$source/vendor/llama.cpp" -B "$folder" "${common[@]}" "$@" >"$folder.log"
  cmake --build "$folder" -j "$jobs" --target llama-bench llama-batched-bench >>"$folder.log"
  ls "$folder"/bin/llama-bench "$folder"/bin/llama-batched-bench
}
build build-native "${native[@]}"
build build-avx2 "${avx2[@]}"
