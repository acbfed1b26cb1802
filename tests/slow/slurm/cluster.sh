#!/usr/bin/env bash
# A Slurm cluster of two nodes on the loopback interface, for tests: `cluster.sh start FOLDER`, `cluster.sh stop FOLDER`.
#
# Needs root and Debian's slurm-wlm and munge. Everything lies in FOLDER but /etc/slurm/slurm.conf: Snakemake's executor
# clears SLURM_CONF before its inner `srun`, so that one file has to be where every command looks for it. A file that is
# already there and not ours is left alone, and nothing is started. Each node has two stand-ins for GPUs, terminal
# devices, since Slurm counts only devices that exist.
set -euo pipefail
conf=/etc/slurm/slurm.conf
mark="# A test cluster on the loopback interface"
folder=$(realpath -m "$2")

start() {
    if [ -e $conf ] && ! grep -q "^$mark" $conf; then
        echo "$conf is of another cluster, which is left alone" >&2
        exit 3
    fi
    mkdir -p "$folder/state" "$folder/spool-one" "$folder/spool-two"
    chmod 755 "$folder"
    head -c 1024 /dev/urandom > "$folder/munge.key"
    chmod 600 "$folder/munge.key"
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
    cat > "$folder/gres.conf" <<EOF
NodeName=one Name=gpu File=/dev/tty[0-1]
NodeName=two Name=gpu File=/dev/tty[2-3]
EOF
    cat > $conf <<EOF
$mark ($folder)
ClusterName=loopback
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmctldPort=16817
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,batch_sched_delay=1
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=30
MinJobAge=300
NodeName=one NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=16818 CPUs=2 RealMemory=16000 Gres=gpu:2
NodeName=two NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=16819 CPUs=2 RealMemory=16000 Gres=gpu:2
PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE State=UP
EOF
    ln -sf "$folder/gres.conf" /etc/slurm/gres.conf
    slurmctld -c
    slurmd -N one
    slurmd -N two
    for _ in $(seq 60); do
        [ "$(timeout 5 sinfo --noheader --Node --format=%T 2> /dev/null | sort -u)" = idle ] && exit 0
        sleep 1
    done
    sinfo --Node --long >&2
    tail -n 20 "$folder"/*.log >&2
    exit 1
}

stop() {
    # Jobs first: their processes are not children of the daemons.
    scancel --full --signal=KILL --state=RUNNING --user=root 2> /dev/null || true
    scancel --user=root 2> /dev/null || true
    for _ in $(seq 15); do
        [ -z "$(squeue --noheader 2> /dev/null)" ] && break
        sleep 1
    done
    for name in slurmd-one slurmd-two slurmctld munged; do
        [ -e "$folder/$name.pid" ] && kill "$(cat "$folder/$name.pid")" 2> /dev/null || true
    done
    if grep -qF "$mark ($folder)" $conf 2> /dev/null; then
        rm -f $conf /etc/slurm/gres.conf
    fi
}

"$1"
