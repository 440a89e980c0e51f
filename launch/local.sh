#!/usr/bin/env bash
# Runs the command line on this machine and keeps its output beside the run.
#
#   launch/local.sh --dataset=mnist --bound=iwhvi --K=50 --workdir=runs/first
#   launch/local.sh --flagfile=flags/mnist_iwhvi.cfg --workdir=runs/paper
#
# Started again with the same arguments, it resumes the run. Needs --workdir.
set -euo pipefail

workdir=""
for argument in "$@"; do
  case "$argument" in --workdir=*) workdir="${argument#--workdir=}" ;; esac
done
if [ -z "$workdir" ]; then
  echo "usage: launch/local.sh --workdir=DIR [flags of python -m hvi_tf.main]" >&2
  exit 2
fi

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
log="${workdir%/}.log"
mkdir -p "${log%/*}/"
echo "Output goes to $log as well."
python -u -m hvi_tf.main "$@" 2>&1 | tee -i -a "$log"  # -i: Ctrl-C is for the run alone
