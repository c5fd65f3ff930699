# Build options and compiler settings shared by every target.
option(QS_BUILD_TESTS "Build the tests" ON)
option(QS_SERVICES "Build everything; OFF: kernels, engine, their tests and benchmarks only" ON)
set(QS_PACK "" CACHE PATH "Folder of dependencies made by tools/gpu_pack; needs QS_SERVICES=OFF")
option(QS_CCACHE "Compile through ccache when it is installed" ON)
option(QS_UNITY "Compile files of services, tools and tests several at a time; OFF: each by itself" ON)
set(QS_SANITIZE "" CACHE STRING
    "Sanitizers for the whole build: address, thread, undefined, address,undefined, or empty")

option(QS_FUZZER "Link the fuzz targets with libFuzzer; needs clang" OFF)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE RelWithDebInfo CACHE STRING "Build type" FORCE)
endif()

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
# -g1 keeps usable stack traces at a third of the object size and link time of -g.
set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-O2 -g1")

# All of them for C++ alone: nvcc has flags of its own (QsCuda.cmake).
function(qs_compile_options)
  add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:${ARGN}>")
endfunction()
qs_compile_options(-Wall -Wextra -Werror=return-type -Werror=unused-result -Wno-unused-parameter
                   "-ffile-prefix-map=${CMAKE_SOURCE_DIR}=.")
# A fused multiply-add changes the result's bits, so the compiler may not form one by itself:
# the accumulation order of every kernel is spelled out in its source.
qs_compile_options(-ffp-contract=off)

if(QS_SANITIZE)
  # A finding ends the program: otherwise UBSan only prints, and the test passes.
  qs_compile_options(-fsanitize=${QS_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${QS_SANITIZE})
endif()

if(QS_FUZZER)
  qs_compile_options(-fsanitize=fuzzer-no-link,address -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address)
endif()

if(QS_CCACHE)
  find_program(QS_CCACHE_PROGRAM ccache)
  if(QS_CCACHE_PROGRAM)
    set(CMAKE_CXX_COMPILER_LAUNCHER
        "${CMAKE_COMMAND}" -E env "CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}" CCACHE_NOHASHDIR=1
        "${QS_CCACHE_PROGRAM}")
  endif()
endif()
