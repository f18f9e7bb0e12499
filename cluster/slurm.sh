#!/usr/bin/env bash
# A search inside one Slurm allocation, with a head and a worker on every node; they end with it.
#
# Costs the allocation, until --time is up or the search is over. All nodes must see the checkout and
# the results. raycae is installed in the checkout, in .venv (`make .venv/raycae`). From there:
#
#   sbatch --nodes 4 --gpus-per-node 4 --time 8:00:00 cluster/slurm.sh --space ex3
#   tail -f slurm-JOB.out                   watch
#   scancel --signal INT --batch JOB        stops the search cleanly, like Ctrl-C
#   scancel JOB                             ends everything at once
#
# Three minutes before the time is up, the search stops cleanly; --resume continues it.
# RAYCAE_RESULTS or --results sets the folder of the studies. The default is ./results in the folder
# where sbatch was called. Arguments need no second level of quotes.
#SBATCH --job-name raycae
#SBATCH --ntasks-per-node 1
#SBATCH --exclusive
#SBATCH --signal B:INT@180
set -euo pipefail

export PATH="$PWD/.venv/bin:$PATH" RAY_USAGE_STATS_ENABLED=0
export RAYCAE_RESULTS="${RAYCAE_RESULTS:-$PWD/results}"

# All users of the cluster reach a node's ports. Without a token they could run code as this user.
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
port=$((20000 + SLURM_JOB_ID % 20000)) # without --exclusive two jobs may share a node
export RAY_ADDRESS="${nodes[0]}:$port"

# Ray's files on every node, in a folder that only this job uses.
temporary="/tmp/raycae-$SLURM_JOB_ID"
trap 'srun --overlap rm -rf "$temporary"' EXIT

on() { # runs a command on one node, with all its cores
    srun --overlap --nodes 1 --ntasks 1 --cpus-per-task "$SLURM_CPUS_ON_NODE" -w "$1" "${@:2}"
}
on "${nodes[0]}" ray start --head --port "$port" --num-cpus "$SLURM_CPUS_ON_NODE" \
    --include-dashboard false --temp-dir "$temporary" --block &
head=$!
until ray status >/dev/null 2>&1; do
    kill -0 $head # fails if Ray did not start; it has printed the reason
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
    wait $search || code=$? # a signal to this script interrupts `wait`, not the search
done
exit "$code"
