# Sourced by the Google Cloud scripts: --dry-run, and printing what is run.

DRY_RUN=''
if [[ "${1:-}" == --dry-run ]]; then
  DRY_RUN=1
  shift
fi

# Arguments as a line that a shell reads back as the same arguments.
quote() {
  local word line='' escaped="'\\''"
  for word in "$@"; do
    case "$word" in
      ''|*[!A-Za-z0-9_@%+=:,./-]*) word="'${word//\'/$escaped}'" ;;
    esac
    line+="${line:+ }$word"
  done
  printf '%s\n' "$line"
}

# Print a command, then run it unless --dry-run was given.
run() {
  quote "$@"
  [[ -n "$DRY_RUN" ]] || "$@"
}
