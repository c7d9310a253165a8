#!/bin/bash
# wrapper.sh COMMAND [ARGUMENT...]: what is to be set inside the container before COMMAND begins.
# It is part of the job: a restart goes on in COMMAND, with all that was set here.

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
ulimit -c 0
exec "$@"
