# What job scripts of a computing centre source: a coordinator for the job, a command that speaks to
# it, and a checkpoint before the time is up.

restart_count() {
    echo "${SLURM_RESTART_COUNT:-0}"
}

# Starts the coordinator. Its port file becomes the command with which the job is controlled.
start_coordinator() {
    fname=dmtcp_command.$SLURM_JOBID
    h=$(hostname)
    rm -f "$fname"
    dmtcp_coordinator --daemon --exit-on-last -p 0 --port-file "$fname" "$@" >/dev/null 2>&1 &
    while true; do
        if [ -f "$fname" ]; then
            p=$(cat "$fname")
            if [ -n "$p" ]; then break; fi
        fi
        sleep 0.1
    done
    export DMTCP_COORD_HOST=$h
    export DMTCP_COORD_PORT=$p
    cat >"$fname" <<END
#!/bin/bash
export PATH=$PATH
export DMTCP_COORD_HOST=$h
export DMTCP_COORD_PORT=$p
dmtcp_command -h $h -p $p "\$@"
END
    chmod a+rx "$fname"
}

# Waits until the computation runs again after its checkpoint.
wait_coord() {
    while true; do
        x=($(./dmtcp_command."$SLURM_JOBID" -s))
        npeers=${x[6]/#*=/}
        running=${x[7]/#*=/}
        if [[ $npeers -gt 0 && $running == yes ]]; then break; fi
        sleep 0.1
    done
}

ckpt_dmtcp() {
    ./dmtcp_command."$SLURM_JOBID" -bc || exit 1
    wait_coord
    ./dmtcp_command."$SLURM_JOBID" --quit
}

# Calls function $1 on signal $2; the job is queued again after that.
requeue_job() {
    trap "$1" "$2"
}

func_trap() {
    echo "checkpoint before restart $(($(restart_count) + 1))"
    ckpt_dmtcp
    trap '' TERM
    wait
    exit 0
}
