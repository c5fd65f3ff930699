# One library per folder; its DEPS line is the architecture.
include(CMakeParseArguments)

# qs_unite(TARGET): its files are compiled up to eight at a time, for most of the time of compiling a
# file of a service goes into the headers of gRPC, Beast and the standard library. Names of
# anonymous namespaces are then names of the whole target. A file with flags of its own stays alone.
function(qs_unite target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${QS_UNITY} UNITY_BUILD_BATCH_SIZE 8)
endfunction()

# UNITY: see qs_unite.
function(qs_library)
  cmake_parse_arguments(ARG "UNITY" "NAME" "SRCS;HDRS;DEPS" ${ARGN})
  if(ARG_SRCS)
    add_library(${ARG_NAME} STATIC ${ARG_SRCS} ${ARG_HDRS})
    if(ARG_UNITY)
      qs_unite(${ARG_NAME})
    endif()
    target_include_directories(${ARG_NAME} PUBLIC "${PROJECT_SOURCE_DIR}")
    target_link_libraries(${ARG_NAME} PUBLIC ${ARG_DEPS})
  else()
    add_library(${ARG_NAME} INTERFACE)
    target_include_directories(${ARG_NAME} INTERFACE "${PROJECT_SOURCE_DIR}")
    target_link_libraries(${ARG_NAME} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

function(qs_executable)
  cmake_parse_arguments(ARG "UNITY" "NAME" "SRCS;DEPS" ${ARGN})
  add_executable(${ARG_NAME} ${ARG_SRCS})
  if(ARG_UNITY)
    qs_unite(${ARG_NAME})
  endif()
  target_include_directories(${ARG_NAME} PRIVATE "${PROJECT_SOURCE_DIR}")
  target_link_libraries(${ARG_NAME} PRIVATE ${ARG_DEPS})
  if(QS_SANITIZE STREQUAL "thread")
    target_sources(${ARG_NAME} PRIVATE $<TARGET_OBJECTS:thread_sanitizer>)
  endif()
endfunction()

# LABELS: unit, parity, e2e, fault, fuzz. UNITY: see qs_unite; the short tests of a folder make one
# program, what takes seconds, starts processes or may hang has its own.
function(qs_test)
  cmake_parse_arguments(ARG "UNITY" "NAME;TIMEOUT" "SRCS;DEPS;LABELS;ARGS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  qs_executable(NAME ${ARG_NAME} SRCS ${ARG_SRCS} DEPS ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  if(ARG_UNITY)
    qs_unite(${ARG_NAME})
  endif()
  add_test(NAME ${ARG_NAME} COMMAND ${ARG_NAME} ${ARG_ARGS}
           WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT})
endfunction()

function(qs_benchmark)
  cmake_parse_arguments(ARG "" "NAME" "SRCS;DEPS" ${ARGN})
  qs_executable(NAME ${ARG_NAME} SRCS ${ARG_SRCS} DEPS ${ARG_DEPS} benchmark::benchmark)
endfunction()

# A pytest file as one ctest test. The interpreter is that of tools/python_env; QWENSERVE_BIN tells
# the test where the binaries are, QWENSERVE_SANITIZE which sanitizers are in them.
function(qs_python_test)
  cmake_parse_arguments(ARG "" "NAME;SCRIPT;TIMEOUT" "LABELS;ARGS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 900)
  endif()
  add_test(NAME ${ARG_NAME}
           COMMAND "${PROJECT_SOURCE_DIR}/.venv/bin/python" -m pytest -q -p no:cacheprovider
                   "${PROJECT_SOURCE_DIR}/${ARG_SCRIPT}" ${ARG_ARGS}
           WORKING_DIRECTORY "${PROJECT_SOURCE_DIR}")
  set_tests_properties(${ARG_NAME} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT ${ARG_TIMEOUT}
                       ENVIRONMENT
    "QWENSERVE_BIN=${CMAKE_RUNTIME_OUTPUT_DIRECTORY};QWENSERVE_SANITIZE=${QS_SANITIZE};PYTHONDONTWRITEBYTECODE=1")
endfunction()
