# The kernels of kernels/cuda: always compiled for the emulation on the host, and by nvcc where
# there is one.
set(QS_CUDA AUTO CACHE STRING "Compile the kernels for GPUs: AUTO (if nvcc is found), ON or OFF")
set(QS_CUDA_ARCHITECTURES "80-real;90a-real;90-virtual" CACHE STRING
    "What the kernels are compiled for, as in CMAKE_CUDA_ARCHITECTURES")

set(qs_min_cuda 12.4)  # graphs with programmatic dependent launches; C++20

set(QS_WITH_CUDA OFF)
set(qs_no_cuda)  # why not
if(QS_CUDA STREQUAL "OFF")
  set(qs_no_cuda "QS_CUDA=OFF")
elseif(QS_CUDA STREQUAL "AUTO" AND (QS_SANITIZE OR QS_FUZZER))
  # The sanitizers look at host code, and that of a GPU they don't understand.
  set(qs_no_cuda "left out of a build with sanitizers")
else()
  if(DEFINED ENV{CUDACXX})
    set(QS_NVCC "$ENV{CUDACXX}" CACHE FILEPATH "The CUDA compiler")
  endif()
  find_program(QS_NVCC nvcc HINTS "$ENV{CUDA_HOME}/bin" /usr/local/cuda/bin)
  if(NOT QS_NVCC)
    set(qs_no_cuda "nvcc was not found")
  else()
    execute_process(COMMAND "${QS_NVCC}" --version OUTPUT_VARIABLE nvcc_version)
    string(REGEX MATCH "V([0-9]+\\.[0-9]+)" nvcc_version "${nvcc_version}")
    if(CMAKE_MATCH_1 VERSION_LESS qs_min_cuda)
      set(qs_no_cuda "${QS_NVCC} is of CUDA ${CMAKE_MATCH_1}, and ${qs_min_cuda} is needed")
    endif()
  endif()
endif()
if(NOT qs_no_cuda)
  set(QS_WITH_CUDA ON)
elseif(QS_CUDA STREQUAL "ON")
  message(FATAL_ERROR "QS_CUDA=ON: ${qs_no_cuda}")
else()
  message(STATUS "CUDA: no kernels for GPUs: ${qs_no_cuda}")
endif()

if(QS_WITH_CUDA)
  set(CMAKE_CUDA_COMPILER "${QS_NVCC}")
  set(CMAKE_CUDA_ARCHITECTURES "${QS_CUDA_ARCHITECTURES}")
  enable_language(CUDA)
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has C++20
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_FLAGS_RELWITHDEBINFO "-O2")
  # The one of Debian 12 (3.25.1) fails for projects that ask for 3.25, where CUDA has no nvToolsExt.
  set(qs_least_cmake "${CMAKE_MINIMUM_REQUIRED_VERSION}")
  set(CMAKE_MINIMUM_REQUIRED_VERSION 3.24)
  find_package(CUDAToolkit REQUIRED)
  set(CMAKE_MINIMUM_REQUIRED_VERSION "${qs_least_cmake}")
  # What ptxas says about each kernel is kept beside its object, for the test of it.
  set(CMAKE_CUDA_COMPILER_LAUNCHER "${PROJECT_SOURCE_DIR}/cmake/nvcc_launcher.sh"
      ${CMAKE_CXX_COMPILER_LAUNCHER})
  # -fmad=false: a product and a sum become one rounding only where the source says Fma.
  # Relaxed constexpr: plans and layouts are one text for host and device.
  set(qs_nvcc_flags -fmad=false --expt-relaxed-constexpr -Xptxas=-v
      "-Xcompiler=-ffile-prefix-map=${CMAKE_SOURCE_DIR}=.")
  # "sm_80 sm_90a compute_90", for people.
  set(QS_CUDA_ARCHITECTURE_NAMES)
  foreach(architecture ${QS_CUDA_ARCHITECTURES})
    if(NOT architecture MATCHES "^([0-9]+[af]?)(-real|-virtual)?$")
      message(FATAL_ERROR "QS_CUDA_ARCHITECTURES: '${architecture}' is not like 90, 90a-real, 90-virtual")
    endif()
    if(NOT CMAKE_MATCH_2 STREQUAL "-virtual")
      list(APPEND QS_CUDA_ARCHITECTURE_NAMES "sm_${CMAKE_MATCH_1}")
    endif()
    if(NOT CMAKE_MATCH_2 STREQUAL "-real")
      list(APPEND QS_CUDA_ARCHITECTURE_NAMES "compute_${CMAKE_MATCH_1}")
    endif()
  endforeach()
  list(JOIN QS_CUDA_ARCHITECTURE_NAMES " " QS_CUDA_ARCHITECTURE_NAMES)
  message(STATUS "CUDA: ${CMAKE_CUDA_COMPILER_VERSION} for ${QS_CUDA_ARCHITECTURE_NAMES}")
endif()

# qs_gpu_libraries(NAME): the libraries NAME_simt and, with CUDA, NAME_cuda, empty at first.
function(qs_gpu_libraries)
  cmake_parse_arguments(ARG "" "NAME" "DEPS" ${ARGN})
  add_library(${ARG_NAME}_simt STATIC)
  set_target_properties(${ARG_NAME}_simt PROPERTIES LINKER_LANGUAGE CXX)
  # -O2 in every build: debugged is what they compute, and slow they would not be run. The thread
  # sanitizer cannot follow fibers.
  target_compile_options(${ARG_NAME}_simt PRIVATE -O2)
  if(QS_SANITIZE MATCHES thread)
    target_compile_options(${ARG_NAME}_simt PRIVATE -fno-sanitize=thread)
  endif()
  target_link_libraries(${ARG_NAME}_simt PUBLIC ${ARG_DEPS})
  target_include_directories(${ARG_NAME}_simt PUBLIC "${PROJECT_SOURCE_DIR}")
  if(QS_WITH_CUDA)
    add_library(${ARG_NAME}_cuda STATIC)
    set_target_properties(${ARG_NAME}_cuda PROPERTIES LINKER_LANGUAGE CXX)
    target_compile_options(${ARG_NAME}_cuda PRIVATE
                           "$<$<COMPILE_LANGUAGE:CUDA>:${qs_nvcc_flags}>")
    target_link_libraries(${ARG_NAME}_cuda PUBLIC ${ARG_DEPS} CUDA::cudart_static)
    target_include_directories(${ARG_NAME}_cuda PUBLIC "${PROJECT_SOURCE_DIR}")
  endif()
endfunction()

# qs_gpu_kernels(SRCS a.cu ... [FOR NAME]): adds kernels to the libraries of qs_gpu_libraries;
# NAME is "kernels" unless told. For the emulation a generated file of one line includes the .cu.
function(qs_gpu_kernels)
  cmake_parse_arguments(ARG "" "FOR" "SRCS" ${ARGN})
  if(NOT ARG_FOR)
    set(ARG_FOR kernels)
  endif()
  foreach(source ${ARG_SRCS})
    file(REAL_PATH "${source}" absolute BASE_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}")
    file(RELATIVE_PATH relative "${PROJECT_SOURCE_DIR}" "${absolute}")
    string(REGEX REPLACE "\\.cu$" "" stem "${relative}")
    set(wrapper "${PROJECT_BINARY_DIR}/simt/${stem}.cc")
    file(CONFIGURE OUTPUT "${wrapper}" CONTENT "#include \"${relative}\"\n" @ONLY)
    target_sources(${ARG_FOR}_simt PRIVATE "${wrapper}")
    if(QS_WITH_CUDA)
      target_sources(${ARG_FOR}_cuda PRIVATE "${absolute}")
    endif()
  endforeach()
endfunction()
