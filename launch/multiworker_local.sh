#!/usr/bin/env bash
# Trains or evaluates with N workers on this machine, which share each batch.
#
#   launch/multiworker_local.sh 2 --dataset=mnist --bound=iwhvi --K=50 --workdir=runs/two
#
# The output of worker 0 goes to the terminal, that of the others to DIR.worker1.log and so on. If
# one worker fails, all are killed. The same command again resumes the run. Ctrl-C and SIGTERM are
# passed on: all workers stop at the same step, with a checkpoint.
set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then
  echo "error: launch/multiworker_local.sh needs bash 5.1, this is $BASH_VERSION" >&2
  exit 2
fi

usage() {
  echo "usage: launch/multiworker_local.sh N --workdir=DIR [flags of python -m hvi_tf.main]" >&2
  exit 2
}

[[ "${1:-}" =~ ^[1-9][0-9]*$ ]] || usage
count=$1
shift
workdir=""
for argument in "$@"; do
  case "$argument" in --workdir=*) workdir="${argument#--workdir=}" ;; esac
done
[ -n "$workdir" ] || usage

unset CDPATH # cd would search it first
cd -- "$(dirname -- "$0")/.."
case "$workdir" in
  *://*)
    echo "error: --workdir=$workdir: is a URL; must be a local folder" >&2
    exit 2
    ;;
  "~" | "~/"*) workdir="$HOME${workdir#\~}" ;; # expanded as by hvi_tf.main
  /*) ;;
  *) workdir="./$workdir" ;; # because the name may begin with a dash
esac
workdir="${workdir%/}"
mkdir -p "${workdir%/*}/"
ports=$(python - "$count" <<'PYTHON'
import socket, sys

sockets = [socket.socket() for _ in range(int(sys.argv[1]))]  # all open at once, so the ports differ
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PYTHON
)
addresses=$(printf '"127.0.0.1:%s",' $ports)

set -m # gives each worker its own process group, so Ctrl-C reaches it once, through the trap
pids=()
pass_on() { kill "-$1" "${pids[@]}" 2> /dev/null || true; }
trap 'pass_on TERM' INT TERM
for ((i = 0; i < count; i++)); do
  export TF_CONFIG="{\"cluster\": {\"worker\": [${addresses%,}]}, \"task\": {\"type\": \"worker\", \"index\": $i}}"
  if ((i == 0)); then
    python -u -m hvi_tf.main "$@" --strategy=multiworker &
  else
    python -u -m hvi_tf.main "$@" --strategy=multiworker >> "$workdir.worker$i.log" 2>&1 &
  fi
  pids+=($!)
done

status=0
for ((left = count; left > 0; left--)); do
  code=0
  while :; do
    code=0
    wait -n -p ended "${pids[@]}" || code=$?
    [ -n "${ended:-}" ] && break # otherwise a signal ended the wait; the trap has passed it on
  done
  remaining=()
  for pid in "${pids[@]}"; do [ "$pid" = "$ended" ] || remaining+=("$pid"); done
  pids=(${remaining[@]+"${remaining[@]}"})
  if ((code != 0 && status == 0)); then
    status=$code
    # After 130 and 143 the others are interrupted at the same step. After 2 they may print the
    # same error, so they get time for it.
    ((code == 130 || code == 143)) || { ((code == 2)) && sleep 2; pass_on KILL; }
  fi
done
exit "$status"
