# What the scripts that make an environment for the tests of another engine share; they source it.
#
#   PYTHON=python3.12    the interpreter it is made with (default python3)
#   PILLION_TORCH_INDEX  the package index that torch comes from, such as the one of its CPU builds
here=$(cd "$(dirname "$0")" && pwd)

# begin_environment ENGINE [FOLDER [VERSION]]
# Ends the script where the environment is there, and newer than what it is made of. Else it makes one
# with torch and the requirements of the tests. Sets root, venv and version;
# `here` is the folder of the script.
begin_environment() {
    root=$(cd "$here/../.." && pwd)
    venv=${2:-$root/.venv-$1}
    supported=$root/src/pillion/$1/versions.py
    version=${3:-$(sed -n 's/^SUPPORTED = .*"\([0-9.]*\)",\{0,1\})$/\1/p' "$supported")}
    mark=$venv/.installed-$version
    [ "$mark" -nt "$here/requirements.txt" ] && [ "$mark" -nt "$root/pyproject.toml" ] && exit 0

    [ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
    pip ${PILLION_TORCH_INDEX:+--index-url "$PILLION_TORCH_INDEX"} torch==2.13.0
    pip -c "$here/constraints.txt" -r "$here/requirements.txt"
}

pip() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

# All is there: the next run does nothing.
end_environment() {
    rm -f "$venv"/.installed*
    touch "$mark"
}
