# libopenalpaca_emulated.so: the CUDA device and its kernels, compiled as plain C++ with the emulator's headers ahead of
# CUDA's; a fake libnccl.so.2; and emulator-selftest, kernels with bugs for the emulator to find.
set(EMULATOR_SOURCES emulator/emulator.cpp emulator/symbols.cpp emulator/runtime.cpp emulator/ptx.cpp)
set(EMULATED_HOST ${CUDA_HOST})
list(REMOVE_ITEM EMULATED_HOST ${CMAKE_SOURCE_DIR}/cuda/runtime/cublaslt.cpp) # replaced by emulator/cublaslt.cpp
list(APPEND EMULATED_HOST emulator/cublaslt.cpp emulator/device.cpp)

# The addon builds the same .cu with nvcc, so here a file with a different name includes it.
function(emulated_source source variable)
  get_filename_component(name ${source} NAME_WE)
  set(wrapper ${CMAKE_BINARY_DIR}/emulated/${name}.cu.cpp)
  file(CONFIGURE OUTPUT ${wrapper} CONTENT "#include \"${source}\"\n")
  set(${variable} ${wrapper} PARENT_SCOPE)
endfunction()

set(EMULATED_KERNELS "")
foreach(source ${CUDA_KERNELS})
  emulated_source(${source} wrapper)
  list(APPEND EMULATED_KERNELS ${wrapper})
endforeach()
emulated_source(${CMAKE_SOURCE_DIR}/emulator/selftest.cu selftest)

# Hardware fused multiply-adds if this machine has them: the tests spend most of their time in kernels.
include(CheckCXXSourceRuns)
check_cxx_source_runs("int main() { return !(__builtin_cpu_supports(\"avx2\") && __builtin_cpu_supports(\"fma\")); }"
  OPENALPACA_HAS_FMA)
set(EMULATOR_FLAGS -O3 -g1 -fno-strict-aliasing -fno-ipa-icf -Wno-unknown-pragmas -Wno-maybe-uninitialized -Wno-restrict)
if(OPENALPACA_EMULATOR_SANITIZE)
  list(APPEND EMULATOR_FLAGS -O1) # optimizing the sanitizer's checks takes long
endif()
if(OPENALPACA_HAS_FMA)
  list(APPEND EMULATOR_FLAGS -march=x86-64-v3)
endif()

find_package(Threads REQUIRED)
add_library(openalpaca_emulator OBJECT ${EMULATOR_SOURCES})
add_library(openalpaca_emulated SHARED ${EMULATED_KERNELS} ${EMULATED_HOST} $<TARGET_OBJECTS:openalpaca_emulator>)
target_compile_definitions(openalpaca_emulated PRIVATE OPENALPACA_WITH_NCCL)
# Not in a directory where the addon looks for the real one.
add_library(emulated_nccl SHARED emulator/nccl.cpp)
set_target_properties(emulated_nccl PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/emulated
  OUTPUT_NAME nccl SUFFIX .so.2 BUILD_RPATH "$ORIGIN/../Release")
target_link_libraries(emulated_nccl PRIVATE openalpaca_emulated)
add_executable(emulator-selftest ${selftest} $<TARGET_OBJECTS:openalpaca_emulator>)
target_sources(emulator-selftest PRIVATE cuda/runtime/errors.cpp)
set_target_properties(emulator-selftest PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/emulated)
foreach(target openalpaca_emulator openalpaca_emulated emulated_nccl emulator-selftest)
  target_compile_definitions(${target} PRIVATE OPENALPACA_EMULATOR)
  target_include_directories(${target} BEFORE PRIVATE emulator/include)
  # -fno-ipa-icf: kernels that compile to the same code keep their names. -Wno-unknown-pragmas: GCC does not know
  # #pragma unroll.
  target_compile_options(${target} PRIVATE ${EMULATOR_FLAGS})
  if(OPENALPACA_EMULATOR_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${OPENALPACA_EMULATOR_SANITIZE} -fno-omit-frame-pointer)
  endif()
endforeach()
foreach(target openalpaca_emulated emulated_nccl emulator-selftest)
  target_link_libraries(${target} PRIVATE Threads::Threads ${CMAKE_DL_LIBS})
  if(OPENALPACA_EMULATOR_SANITIZE)
    target_link_options(${target} PRIVATE -fsanitize=${OPENALPACA_EMULATOR_SANITIZE})
  endif()
endforeach()
# Check at link time that every op is defined, rather than at its first call.
target_link_options(openalpaca_emulated PRIVATE -Wl,--no-undefined)

add_custom_target(emulated DEPENDS openalpaca_emulated emulated_nccl emulator-selftest)
