# The dependencies of kernels and engine out of a folder made by tools/gpu_pack (QS_PACK), for a
# machine that has no packages of them.
find_package(Threads REQUIRED)
cmake_path(ABSOLUTE_PATH QS_PACK BASE_DIRECTORY "${CMAKE_SOURCE_DIR}")
if(NOT EXISTS "${QS_PACK}/include/absl")
  message(FATAL_ERROR "no pack in ${QS_PACK}; make one with tools/gpu_pack")
endif()

# One target with all headers and archives stands for every library: the archives depend on each
# other, and the linker takes what is used.
add_library(qs_pack INTERFACE)
target_include_directories(qs_pack SYSTEM INTERFACE "${QS_PACK}/include")
file(GLOB pack_archives "${QS_PACK}/lib/*.a")
list(FILTER pack_archives EXCLUDE REGEX "gtest_main")
target_link_libraries(qs_pack INTERFACE -Wl,--start-group ${pack_archives} -Wl,--end-group
                      Threads::Threads ${CMAKE_DL_LIBS})
target_compile_definitions(qs_pack INTERFACE FMT_HEADER_ONLY SPDLOG_FMT_EXTERNAL)
foreach(name
        absl::algorithm_container absl::flat_hash_map absl::flat_hash_set absl::function_ref
        absl::memory absl::span absl::status absl::statusor absl::str_format absl::strings absl::time
        nlohmann_json::nlohmann_json spdlog::spdlog CLI11::CLI11 OpenSSL::Crypto PkgConfig::utf8proc
        GTest::gtest GTest::gmock)
  add_library(${name} INTERFACE IMPORTED)
  target_link_libraries(${name} INTERFACE qs_pack)
endforeach()
add_library(GTest::gtest_main INTERFACE IMPORTED)
target_link_libraries(GTest::gtest_main INTERFACE "${QS_PACK}/lib/libgtest_main.a" qs_pack)
