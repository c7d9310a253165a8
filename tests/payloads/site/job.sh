#!/bin/bash
#SBATCH --signal=B:TERM@60 --requeue --open-mode=append
. ./cr_env.sh

start_coordinator
if [[ $(restart_count) == 0 ]]; then
    dmtcp_launch -j -i 300 ./payload.sh &
else
    ./dmtcp_restart_script.sh -h "$DMTCP_COORD_HOST" -p "$DMTCP_COORD_PORT" &
fi
job=$!
requeue_job func_trap TERM
wait $job
