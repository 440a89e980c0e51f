#!/usr/bin/env bash
# Runs the command line on this machine and keeps its output next to the run.
#
#   launch/local.sh --dataset=mnist --bound=iwhvi --K=50 --workdir=runs/first
#   launch/local.sh --flagfile=flags/mnist_iwhvi.cfg --workdir=runs/paper
#
# The same command again resumes the run. --workdir is required.
set -euo pipefail

workdir=""
for argument in "$@"; do
  case "$argument" in --workdir=*) workdir="${argument#--workdir=}" ;; esac
done
if [ -z "$workdir" ]; then
  echo "usage: launch/local.sh --workdir=DIR [flags of python -m hvi_tf.main]" >&2
  exit 2
fi

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
log="${workdir%/}.log"
mkdir -p "${log%/*}/"
echo "The output is also written to $log."
python -u -m hvi_tf.main "$@" 2>&1 | tee -i -a "$log"  # -i: Ctrl-C interrupts only the run
