#!/bin/bash
#SBATCH --job-name=ckpt-example
#SBATCH --time=02:00:00 --time-min=00:30:00   # of one round
#SBATCH --comment=24:00:00                    # of all rounds together
#SBATCH --signal=B:USR1@60                    # to this script, 60 s before a round ends
#SBATCH --requeue --open-mode=append          # the next round is this job, with the same output file
##SBATCH --image=docker:debian:12             # for Shifter: sbatch knows it only where that is installed

# Runs payload.sh in a container, in as many rounds as it takes:
#
#     sbatch main.sh
#     CONTAINER="apptainer exec image.sif" sbatch main.sh
#     CONTAINER="podman-hpc run --rm --network=host -v $PWD:$PWD -w $PWD
#         -e SLURM_JOB_ID -e SLURM_RESTART_COUNT image" sbatch main.sh
#     CONTAINER="" sbatch main.sh               # none
#
# cr_env.sh, wrapper.sh and payload.sh are in the folder of submission, which the container sees. The
# image holds ckpt's programs under DMTCP's names (or DMTCP); they are in PATH here, too.

set -u
# shellcheck source-path=SCRIPTDIR
. ./cr_env.sh

# What enters the container, as words.
read -rd '' -a container <<<"${CONTAINER-shifter}"

export DMTCP_CHECKPOINT_DIR=$PWD/ckpt.$SLURM_JOB_ID

# In the background, as a shell that waits for a command in the foreground hears no signal meanwhile.
"${container[@]}" ./wrapper.sh ./payload.sh &
payload=$!

ckpt_command=ckpt_dmtcp
requeue_job func_trap USR1

wait_pid "$payload"
