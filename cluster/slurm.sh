#!/usr/bin/env bash
# A search inside one Slurm allocation: a head and a worker on every node of it, gone with it.
#
# Costs the allocation, until --time is up or the search is over. The checkout and the results lie
# where all nodes see them; raycae is installed there, in .venv (`make .venv/raycae`). From there:
#
#   sbatch --nodes 4 --gpus-per-node 4 --time 8:00:00 cluster/slurm.sh --space ex3
#   tail -f slurm-JOB.out                   watch
#   scancel --signal INT --batch JOB        ends the search in order, as Ctrl-C does
#   scancel JOB                             ends all of it at once
#
# Three minutes before the time is up the search ends in order by itself, and goes on with --resume.
# RAYCAE_RESULTS, or --results, says where studies lie; without either ./results, where sbatch was
# called. Arguments need no second quoting.
#SBATCH --job-name raycae
#SBATCH --ntasks-per-node 1
#SBATCH --exclusive
#SBATCH --signal B:INT@180
set -euo pipefail

export PATH="$PWD/.venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0
export RAYCAE_RESULTS="${RAYCAE_RESULTS:-$PWD/results}"

# A node's ports are open to all who use the cluster: without a token they run code as this user.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 20000)) # without --exclusive two jobs may share a node
export RAY_ADDRESS="${nodes[0]}:$port"

# Ray's files, in a folder of this job's own on every node.
temporary="/tmp/raycae-$SLURM_JOB_ID"
trap 'srun --overlap rm -rf "$temporary"' EXIT

on() { # one node, all of its cores
    srun --overlap --nodes 1 --ntasks 1 --cpus-per-task "$SLURM_CPUS_ON_NODE" -w "$1" "${@:2}"
}
on "${nodes[0]}" ray start --head --port "$port" --num-cpus "$SLURM_CPUS_ON_NODE" \
    --include-dashboard false --temp-dir "$temporary" --block &
head=$!
until ray status >/dev/null 2>&1; do
    kill -0 $head # or it has not started, and has said why
    sleep 1
done
for node in "${nodes[@]:1}"; do
    on "$node" ray start --address "$RAY_ADDRESS" --num-cpus "$SLURM_CPUS_ON_NODE" --block &
done

raycae search "$@" &
search=$!
trap 'kill -INT $search' INT
code=0
while kill -0 $search 2>/dev/null; do
    code=0
    wait $search || code=$? # a signal to this script ends the waiting, not the search
done
exit "$code"
