# Sourced by the other scripts: a virtual environment, made once, then reused.
#
#   source launch/venv.sh; ensure_venv demo,viz
#
# TOKPRESS_VENV   where the environment lives (default: .venv in the checkout)
# PYTHON          the interpreter that makes it (default: python3, 3.11 or newer)
# TOKPRESS_EXTRAS more extras for this machine, such as tpu or cuda

# Install the checkout with extras (comma separated, $1) under the exact
# versions of constraints.txt, unless exactly that is installed already.
ensure_venv() {
  local root extras stamp want have extra missing=
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
  VENV="${TOKPRESS_VENV:-$root/.venv}"
  extras="$1${TOKPRESS_EXTRAS:+,$TOKPRESS_EXTRAS}"
  stamp="$VENV/tokpress_installed"
  want="$root $(cd "$root" &&
    cat setup.cfg pyproject.toml constraints.txt | cksum)"
  have="$(sed -n 1p "$stamp" 2>/dev/null || true)"
  local installed=''
  [[ "$want" == "$have" ]] && installed="$(sed -n 2p "$stamp")"
  for extra in ${extras//,/ }; do
    [[ ",$installed," == *",$extra,"* ]] || missing+=",$extra"
  done
  if [[ -n "$missing" ]]; then
    local python="${PYTHON:-python3}"
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
      echo "launch: $python is not Python 3.11 or newer; set PYTHON" >&2
      return 1
    fi
    [[ -x "$VENV/bin/python" ]] || "$python" -m venv "$VENV"
    extras="${installed:+$installed,}${extras}"
    echo "launch: installing tokpress-jax[$extras] into $VENV" >&2
    (cd "$root" && "$VENV/bin/python" -m pip install --quiet \
      --disable-pip-version-check -c constraints.txt -e ".[$extras]")
    printf '%s\n%s\n' "$want" "$extras" > "$stamp"
  fi
  PATH="$VENV/bin:$PATH"
  export PATH
}
