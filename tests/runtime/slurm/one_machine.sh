#!/usr/bin/env bash
# Runs a command in a Slurm cluster of this machine alone, which ends with the command:
#
#   tests/runtime/slurm/one_machine.sh FOLDER COMMAND [ARGUMENT...]
#
# Installs Debian's slurm-wlm and munge if they are missing. The daemons write only to FOLDER and
# listen on separate ports, so they do not disturb a Slurm cluster that already runs here.
# Exits with status 77 if the cluster cannot start, and prints the reason as the last line.
set -uo pipefail
umask 077

cannot() {
  echo "cannot run Slurm here: $1"
  exit 77
}

folder=$(realpath "$1")
shift
[ "$(id -u)" = 0 ] || cannot "only root may start its daemons"
has_slurm() { command -v slurmctld slurmd munged sbatch > /dev/null; }
install() {
  exec 9> /run/lock/hvi_tf-slurm-install.lock
  flock 9 # two tests at once install it once
  has_slurm && return
  # Debian starts its own daemons unless a policy forbids it.
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  export DEBIAN_FRONTEND=noninteractive
  packages="slurm-wlm munge"
  apt-get install -y -qq --no-install-recommends $packages && return
  apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages
}
if ! has_slurm; then
  command -v apt-get > /dev/null || cannot "slurm-wlm is not installed, and there is no apt-get"
  (install) > "$folder/apt.log" 2>&1 || cannot "apt-get: $(tail -n 1 "$folder/apt.log")"
fi

host=$(hostname -s)
port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
mkdir -p "$folder/spool" "$folder/state"
head -c 1024 /dev/urandom > "$folder/munge.key"
chmod 700 "$folder"
chmod 400 "$folder/munge.key"
export SLURM_CONF="$folder/slurm.conf"
cat > "$SLURM_CONF" << CONFIG
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$(port)
SlurmdPort=$(port)
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdParameters=config_overrides
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=8 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONFIG

pids=()
stop() {
  scancel --quiet --user=root 2> /dev/null
  for pid in "${pids[@]}"; do kill "$pid" 2> /dev/null; done
  wait
}
trap stop EXIT

munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
  --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" \
  > "$folder/munged.out" 2>&1 &
pids+=($!)
for ((i = 0; i < 50; i++)); do [ -S "$folder/munge.socket" ] && break || sleep 0.1; done
[ -S "$folder/munge.socket" ] || cannot "munged does not start: $(tail -n 1 "$folder/munged.out")"
slurmctld -D > "$folder/slurmctld.out" 2>&1 &
pids+=($!)
slurmd -D -N "$host" > "$folder/slurmd.out" 2>&1 &
pids+=($!)
for ((i = 0; i < 150; i++)); do
  [ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ] && break || sleep 0.1
done
[ "$(sinfo --noheader --format=%T 2> /dev/null)" = idle ] ||
  cannot "no idle node: $(tail -qn 1 "$folder/slurmctld.log" "$folder/slurmd.log" | tr '\n' ' ')"
"$@"
