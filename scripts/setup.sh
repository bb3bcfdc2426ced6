# Sourced by the other scripts: a virtual environment at the tested versions. setup_environment DIR EXTRA
# makes DIR hold this checkout with the extra; it does nothing where that has been done.

setup_environment() {
    local directory=$1 extra=$2 wanted python=${PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "setup: Python 3.11 or newer is needed; name one as PYTHON=..." >&2
        return 2
    }
    wanted="$extra $(cat pyproject.toml scripts/constraints.txt | cksum)"
    if [ "$(cat "$directory/.installed" 2>/dev/null)" != "$wanted" ]; then
        echo "setup: installing coinfer-ray[$extra] into $directory (once)" >&2
        [ -x "$directory/bin/python" ] || "$python" -m venv "$directory"
        "$directory/bin/python" -m pip install --quiet --disable-pip-version-check \
            --constraint scripts/constraints.txt --editable ".[$extra]"
        echo "$wanted" > "$directory/.installed"
    fi
}
