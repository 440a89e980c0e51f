#!/usr/bin/env bash
# Runs the preset long of every experiment that has one, next to other work on this machine.
#
#   setsid launch/long_runs.sh --out=runs/long >> long.log 2>&1 &
#
# The same command again resumes. All arguments are passed to python -m hvi_tf.reproduce. The
# order is: likelihood-table on MNIST with one seed, the other experiments with one seed, then all
# seeds.
set -euo pipefail

# Linux divides CPU time among sessions, and `nice` applies within one. With `setsid` this script
# has its own session, which the next lines give the lowest priority.
read -r _ _ _ _ _ session _ < /proc/$$/stat
if [ "$session" = "$$" ] && [ -w /proc/self/autogroup ]; then
  echo 19 > /proc/self/autogroup || true
fi

long() { nice -n 19 python -u -m hvi_tf.reproduce "$@" --preset=long; }

long "$@" likelihood-table --set=datasets=mnist --set=seeds=1
long "$@" likelihood-table posterior-collapse bsvi-tables bsvi-vs-iwae training-k --set=seeds=1
long "$@" likelihood-table training-k posterior-collapse evaluation-metric bsvi-tables bsvi-vs-iwae
