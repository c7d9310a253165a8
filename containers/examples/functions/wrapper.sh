#!/bin/bash
# wrapper.sh COMMAND [ARGUMENT...]: in the container, begins COMMAND under a coordinator of its own, or
# goes on from its newest checkpoint. A checkpoint is taken every 300 seconds, or $INTERVAL, and when
# main.sh asks for one.

set -u
# shellcheck source-path=SCRIPTDIR
. ./cr_env.sh

export DMTCP_CHECKPOINT_DIR=${DMTCP_CHECKPOINT_DIR:-$PWD/ckpt.${SLURM_JOB_ID:-local}}
restart=$DMTCP_CHECKPOINT_DIR/dmtcp_restart_script.sh

mkdir -p "$DMTCP_CHECKPOINT_DIR" || exit
start_coordinator --interval "${INTERVAL:-300}" || exit

# Not by exec: the first process of a container becomes the coordinator's parent, and all that is below
# a launcher is frozen with the job.
# A job that was requeued before its first checkpoint begins once more.
if (($(restart_count) > 0)) && [[ -x $restart ]]; then
    "$restart" -h "$DMTCP_COORD_HOST" -p "$DMTCP_COORD_PORT" &
else
    dmtcp_launch --join-coordinator "$@" &
fi
payload=$!
# As the first process of a container, a shell without a trap hears no TERM.
trap 'kill -TERM "$payload" 2>/dev/null' TERM
wait_pid "$payload"
