#!/bin/bash
#SBATCH --job-name=g4bench
#SBATCH --time=02:00:00 --time-min=00:30:00   # of one round
#SBATCH --comment=24:00:00                    # of all rounds together
#SBATCH --requeue --open-mode=append          # the next round is this job, with the same output file

# Runs a payload in a container, in as many rounds as it takes, each from the last one's checkpoint.
# With "sbatch" in front of it, and nothing behind it, the payload is example_g4.sh; else what follows:
#
#     IMAGE=debian:12 sbatch main_podmanhpc.sh ./payload.sh 1000
#
# The image is any that has what the payload needs (Dockerfile.payload makes one for example_g4.sh).
# ckpt is not in it: the folder that `cargo xtask dist` made is in $PATH here.

container=(--container shifter --image "${IMAGE:-g4bench:latest}")
[[ $# -gt 0 ]] || set -- ./example_g4.sh
exec ckpt-launch --slurm "${container[@]}" -- ./wrapper.sh "$@"
