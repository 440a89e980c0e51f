#!/usr/bin/env bash
# Trains, or evaluates, with N workers on this machine, which share each batch.
#
#   launch/multiworker_local.sh 2 --dataset=mnist --bound=iwhvi --K=50 --workdir=runs/two
#
# Output of worker 0 comes to the terminal; what the others say goes to DIR.worker1.log and so
# on. If one ends badly all are ended; started again with the same arguments, the run resumes.
# Ctrl-C and SIGTERM are passed on: all workers stop at the same step, with a checkpoint.
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

unset CDPATH # in which cd would look first
cd -- "$(dirname -- "$0")/.."
case "$workdir" in
  *://*)
    echo "error: --workdir=$workdir: a URL; name a local folder" >&2
    exit 2
    ;;
  "~" | "~/"*) workdir="$HOME${workdir#\~}" ;; # as hvi_tf.main does
  /*) ;;
  *) workdir="./$workdir" ;; # its name may begin with a dash
esac
workdir="${workdir%/}"
mkdir -p "${workdir%/*}/"
ports=$(python - "$count" <<'PYTHON'
import socket, sys

sockets = [socket.socket() for _ in range(int(sys.argv[1]))]  # all at once, to be different
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PYTHON
)
addresses=$(printf '"127.0.0.1:%s",' $ports)

set -m # each worker in a group of its own: a Ctrl-C comes once, by way of the trap
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
    [ -n "${ended:-}" ] && break # else it was a signal, which the trap has passed on
  done
  remaining=()
  for pid in "${pids[@]}"; do [ "$pid" = "$ended" ] || remaining+=("$pid"); done
  pids=(${remaining[@]+"${remaining[@]}"})
  if ((code != 0 && status == 0)); then
    status=$code
    # 130 and 143: interrupted, as the others are at the same step. 2: they may say the same.
    ((code == 130 || code == 143)) || { ((code == 2)) && sleep 2; pass_on KILL; }
  fi
done
exit "$status"
