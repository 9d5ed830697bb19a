#!/usr/bin/env bash
# Tests and benchmarks of openalpaca-native on a machine with an NVIDIA GPU. Nothing needs to be installed: Node.js is
# included, and cuBLASLt comes from the CUDA toolkit or from the packages of the python3 in the path.
set -euo pipefail
cd "$(dirname "$0")"

usage() {
  cat <<'END'
./run.sh test [WORD...]               the test suite on the GPU; with words, the files whose names have one
./run.sh bench [OPTION...]            the benchmarks on the GPU (--help lists the options; --python python3 for peers)
./run.sh sanitize TOOL [WORD...]      the tests of the ops under compute-sanitizer; TOOL is memcheck, racecheck,
                                      initcheck or synccheck
./run.sh node ARGUMENT...             Node, set up for the addon
END
}

# The site-packages with NVIDIA's libraries.
packages=$(python3 - 2>/dev/null <<'END' || true
import sys, pathlib
print(":".join(p for p in dict.fromkeys(sys.path) if p and (pathlib.Path(p) / "nvidia").is_dir()))
END
)
export OPENALPACA_CUDA_LIBRARIES="${OPENALPACA_CUDA_LIBRARIES:+$OPENALPACA_CUDA_LIBRARIES:}$packages"
export LD_LIBRARY_PATH="$PWD/libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export OPENALPACA_TEST_DEVICES="${OPENALPACA_TEST_DEVICES:-cuda}"

command="${1:-help}"
[ $# -gt 0 ] && shift
case "$command" in
  test) exec ./node run-tests.cjs "$@" ;;
  bench) exec ./node dist/bench/main.js --device "$OPENALPACA_TEST_DEVICES" "$@" ;;
  sanitize)
    tool="${1:?sanitize what? memcheck, racecheck, initcheck or synccheck}"
    shift
    [ $# -gt 0 ] || set -- test/ops
    # It makes everything some ten times slower, and watches one process: files must not run in separate processes.
    export TEST_TIMEOUT=3600000
    exec compute-sanitizer --tool "$tool" --error-exitcode 99 --print-limit 20 ./node run-tests.cjs --in-process "$@"
    ;;
  node) exec ./node "$@" ;;
  *) usage ;;
esac
