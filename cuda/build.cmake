# Decides whether and how the addon includes the CUDA device. nvcc is called directly: CMake's CUDA language would be
# enabled for every user who has some nvcc, and does not know the layout of NVIDIA's Python packages.
#
# The compiler is the one that CUDACXX, CUDA_HOME, or CUDA_PATH names; otherwise the pinned one that
# scripts/fetch-cuda.mjs fetches (cuda/requirements.txt); otherwise the one on the PATH or in /usr/local/cuda. Any that
# supports C++20 works; registers and spills are only checked with the pinned one, hence a warning for others.
#
# Each is a CMake or environment variable:
#   OPENALPACA_CUDA                AUTO builds it if there is an NVIDIA driver and a working nvcc, ON requires an nvcc,
#                                  OFF leaves it out
#   OPENALPACA_NVCC_FLAGS          further flags: "-Werror;all-warnings;-Xcompiler=-Werror" in .ci/run
#   OPENALPACA_CUDA_ARCHITECTURES  the chips to compile for. 80 runs on 8.6 and 8.9 too; the last one's PTX on newer chips
set(OPENALPACA_CUDA "$ENV{OPENALPACA_CUDA}" CACHE STRING "Build the CUDA device: AUTO, ON or OFF")
if(OPENALPACA_CUDA STREQUAL "")
  set(OPENALPACA_CUDA AUTO)
endif()
set(OPENALPACA_NVCC_FLAGS "$ENV{OPENALPACA_NVCC_FLAGS}" CACHE STRING "Further flags of nvcc")
set(OPENALPACA_CUDA_ARCHITECTURES "80;90a" CACHE STRING "Chips to compile CUDA kernels for")
string(TOUPPER "${OPENALPACA_CUDA}" OPENALPACA_CUDA)

# Sets CUDA_REASON to the reason why it cannot be built, or to the empty string.
function(openalpaca_find_cuda)
  set(CUDA_REASON "" PARENT_SCOPE)
  if(OPENALPACA_CUDA STREQUAL "AUTO")
    if(NOT EXISTS /dev/nvidiactl AND NOT EXISTS /proc/driver/nvidia/version AND NOT EXISTS /dev/dxg)
      set(CUDA_REASON "there is no NVIDIA driver (OPENALPACA_CUDA=ON builds it anyway)" PARENT_SCOPE)
      return()
    endif()
  endif()
  file(GLOB packages ${CMAKE_SOURCE_DIR}/.cuda/*/nvidia/cu*)
  file(GLOB nccl_packages ${CMAKE_SOURCE_DIR}/.cuda/*/nvidia/nccl)
  # Searched again each time: the environment decides, and may have changed.
  foreach(found OPENALPACA_NVCC CUDA_INCLUDE_DIR CUDA_RUNTIME CUBLASLT_INCLUDE_DIR NCCL_INCLUDE_DIR)
    unset(${found} CACHE)
  endforeach()
  find_program(OPENALPACA_NVCC NAMES $ENV{CUDACXX} nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH ${packages}
    PATHS /usr/local/cuda PATH_SUFFIXES bin)
  if(NOT OPENALPACA_NVCC)
    set(CUDA_REASON "no nvcc was found (node scripts/fetch-cuda.mjs fetches it, without root)" PARENT_SCOPE)
    return()
  endif()
  # nvcc may be a script, or a link into another directory; it reports where its toolkit is.
  execute_process(COMMAND ${OPENALPACA_NVCC} --dryrun -x cu -c /dev/null -o /dev/null OUTPUT_VARIABLE log ERROR_VARIABLE log)
  string(REGEX MATCH "TOP=([^\n]*)" top "${log}")
  get_filename_component(root "${CMAKE_MATCH_1}" REALPATH)
  find_path(CUDA_INCLUDE_DIR cuda_runtime.h HINTS ${root} ${packages} PATH_SUFFIXES include targets/x86_64-linux/include
    NO_DEFAULT_PATH)
  find_library(CUDA_RUNTIME cudart_static HINTS ${root} ${packages} PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib)
  find_path(CUBLASLT_INCLUDE_DIR cublasLt.h HINTS ${root} ${packages} PATH_SUFFIXES include targets/x86_64-linux/include)
  foreach(part CUDA_INCLUDE_DIR CUDA_RUNTIME CUBLASLT_INCLUDE_DIR)
    if(NOT ${part})
      set(CUDA_REASON "${OPENALPACA_NVCC} was found, but not the CUDA runtime's header and static library and cublasLt.h (node scripts/fetch-cuda.mjs fetches them)" PARENT_SCOPE)
      return()
    endif()
  endforeach()
  find_path(NCCL_INCLUDE_DIR nccl.h HINTS ${root} $ENV{NCCL_HOME} ${nccl_packages}
    PATH_SUFFIXES include targets/x86_64-linux/include)
  # An nvcc may be too old for C++20, or reject the host compiler.
  set(trial ${CMAKE_BINARY_DIR}/cuda-trial)
  file(WRITE ${trial}.cu "#include <cuda_bf16.h>\n#include <concepts>\n__global__ void f(__nv_bfloat16* x) { *x = 0; }\n")
  execute_process(COMMAND ${OPENALPACA_NVCC} -std=c++20 -I${CUDA_INCLUDE_DIR} -ccbin ${CMAKE_CXX_COMPILER}
    -arch=sm_80 -c ${trial}.cu -o ${trial}.o RESULT_VARIABLE status OUTPUT_VARIABLE log ERROR_VARIABLE log)
  if(NOT status EQUAL 0)
    string(REGEX MATCH "[^\n]*error[^\n]*" first "${log}")
    set(CUDA_REASON "${OPENALPACA_NVCC} does not compile C++20 with ${CMAKE_CXX_COMPILER}: ${first}" PARENT_SCOPE)
  endif()
endfunction()

if(OPENALPACA_CUDA STREQUAL "OFF")
  set(CUDA_REASON "OPENALPACA_CUDA is OFF")
else()
  openalpaca_find_cuda()
endif()

if(CUDA_REASON STREQUAL "")
  list(JOIN OPENALPACA_CUDA_ARCHITECTURES ", sm_" architectures)
  if(NCCL_INCLUDE_DIR)
    set(with "with NCCL")
  else()
    set(with "without NCCL, whose nccl.h was not found (node scripts/fetch-cuda.mjs nccl-header fetches it)")
  endif()
  execute_process(COMMAND ${OPENALPACA_NVCC} --version OUTPUT_VARIABLE log ERROR_QUIET)
  string(REGEX MATCH "V([0-9.]+)" version "${log}")
  set(version "${CMAKE_MATCH_1}")
  message(STATUS "CUDA device: yes, for sm_${architectures} and newer, by ${OPENALPACA_NVCC} ${version}, ${with}")
  file(STRINGS ${CMAKE_SOURCE_DIR}/cuda/requirements.txt pinned REGEX "^nvidia-cuda-nvcc==")
  string(REGEX REPLACE ".*==([0-9.]+).*" "\\1" pinned "${pinned}")
  if(NOT version STREQUAL pinned)
    message(STATUS "CUDA device: warning: nvcc ${version} compiles it, but its kernels are checked with ${pinned}, "
      "and another may spill registers (node scripts/fetch-cuda.mjs fetches ${pinned}, scripts/kernel-report.mjs --check reports spills)")
  endif()
  file(WRITE ${CMAKE_BINARY_DIR}/cuda/nvcc-version.txt "${version}\n") # for scripts/kernel-report.mjs
  set(gencode "")
  foreach(architecture ${OPENALPACA_CUDA_ARCHITECTURES})
    list(APPEND gencode -gencode arch=compute_${architecture},code=sm_${architecture})
    string(REGEX REPLACE "[a-z]" "" newest ${architecture})
  endforeach()
  list(APPEND gencode -gencode arch=compute_${newest},code=compute_${newest})
  set(NVCC_FLAGS -std=c++20 -O3 --expt-relaxed-constexpr ${gencode} -ccbin ${CMAKE_CXX_COMPILER} -I${CMAKE_SOURCE_DIR}
    -I${CUDA_INCLUDE_DIR} -Xcompiler=-Wall,-Wextra,-fPIC,-fvisibility=hidden -Xptxas=-v ${OPENALPACA_NVCC_FLAGS})
  set(CUDA_OBJECTS "")
  foreach(source ${CUDA_KERNELS})
    get_filename_component(name ${source} NAME)
    set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
    # ptxas's register report goes to a file, for scripts/kernel-report.mjs; on failure also to the terminal.
    add_custom_command(OUTPUT ${object} DEPENDS ${source} DEPFILE ${object}.d VERBATIM COMMENT "Compiling cuda/${name}"
      COMMAND sh -c "\"$@\" > \"$0\" 2>&1 || { cat \"$0\"; exit 1; }" ${object}.log
        ${OPENALPACA_NVCC} ${NVCC_FLAGS} -MD -MT ${object} -MF ${object}.d -c ${source} -o ${object})
    list(APPEND CUDA_OBJECTS ${object})
  endforeach()
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/cuda)
  add_custom_target(cuda_kernels DEPENDS ${CUDA_OBJECTS})
  if(NOT NCCL_INCLUDE_DIR)
    list(REMOVE_ITEM CUDA_HOST ${CMAKE_SOURCE_DIR}/collectives/nccl.cpp)
  else()
    target_compile_definitions(openalpaca PRIVATE OPENALPACA_WITH_NCCL)
    target_include_directories(openalpaca SYSTEM PRIVATE ${NCCL_INCLUDE_DIR})
  endif()
  target_sources(openalpaca PRIVATE ${CUDA_HOST} ${CUDA_OBJECTS})
  set_source_files_properties(${CUDA_OBJECTS} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
  set_property(SOURCE binding/devices.cpp APPEND PROPERTY COMPILE_DEFINITIONS OPENALPACA_CUDA)
  target_include_directories(openalpaca SYSTEM PRIVATE ${CUDA_INCLUDE_DIR} ${CUBLASLT_INCLUDE_DIR})
  find_package(Threads REQUIRED)
  target_link_libraries(openalpaca PRIVATE ${CUDA_RUNTIME} Threads::Threads rt)
elseif(OPENALPACA_CUDA STREQUAL "ON")
  message(FATAL_ERROR "CUDA device: ${CUDA_REASON}")
else()
  message(STATUS "CUDA device: no; ${CUDA_REASON}")
  set_property(SOURCE binding/devices.cpp APPEND PROPERTY COMPILE_DEFINITIONS
    "OPENALPACA_NO_CUDA_REASON=\"${CUDA_REASON}\"") # no other file is compiled again when it changes
endif()
