#!/usr/bin/env bash
# Tests the ops on the emulated device under AddressSanitizer, with every access to shared memory checked. This covers
# memory that the emulator's bounds checks do not: raw pointers on the host, workspaces, the device itself.
# Arguments go to vitest: scripts/test-sanitized.sh test/ops/rope.test.ts
set -euo pipefail
cd "$(dirname "$0")/.."

# The addon of this clone, not the package's: that one contains its own libstdc++, whose strings the sanitizer takes for a
# mismatch of new and free.
node scripts/setup.mjs

cmake_js=node_modules/cmake-js/bin/cmake-js
mkdir -p build
node $cmake_js configure --out build/sanitized --CDOPENALPACA_CUDA=OFF --CDOPENALPACA_EMULATOR=ON \
  --CDOPENALPACA_EMULATOR_SANITIZE=address > build/sanitized.log 2>&1 || { tail -n 30 build/sanitized.log; exit 1; }
cmake --build build/sanitized --target openalpaca_emulated --parallel "$(nproc)" >> build/sanitized.log 2>&1 ||
  { grep -m 1 -A 30 -i error build/sanitized.log; exit 1; }

# Node.js is not linked with the sanitizer's library, so it must be preloaded. Node.js itself has many leaks.
export OPENALPACA_EMULATED_LIBRARY="$PWD/build/sanitized/Release/libopenalpaca_emulated.so"
export OPENALPACA_EMULATOR_CHECK=all ASAN_OPTIONS=detect_leaks=0
LD_PRELOAD=$(c++ -print-file-name=libasan.so) node node_modules/vitest/vitest.mjs run -t emulated "${@:-test/ops}"
