# shellcheck shell=bash
# For job scripts under Slurm that checkpoint with DMTCP's commands and have themselves requeued:
#
#     . ./cr_env.sh
#     ckpt_command=ckpt_dmtcp
#     requeue_job func_trap USR1        # the signal of --signal=B:USR1@60
#     ./wrapper.sh ./payload.sh &
#     wait_pid $!
#
# Job script and wrapper source it in the same folder, and find each other by a file there: one of
# them may be in a container, where no Slurm is, and the other not. What times mean and what becomes
# of a job is the business of `ckpt slurm`; there is no arithmetic here.

# The command that speaks to this job's coordinator. An absolute path: "." need not be in PATH.
cr_command=$PWD/dmtcp_command.${SLURM_JOB_ID:-${SLURM_JOBID:-local}}
# What lets one side speak to the other's coordinator. Their home folders may be two.
export CKPT_SECRET_FILE=${CKPT_SECRET_FILE:-$cr_command.secret}
# Seconds after which a coordinator that does not come, or a checkpoint that does not end, is given up.
: "${cr_patience:=600}"

# ("return" alone would be, in a trap, the status of what the trap has interrupted: hence "return $?".)

cr_say() {
    echo "cr_env.sh: $*" >&2
}

# ---- times ---------------------------------------------------------------------------------------

# HH:MM:SS for $1 seconds.
secs2timestr() {
    ckpt slurm time "${1:-}"
}

# Seconds for a time of Slurm's in any form (45 is 45 minutes). UNLIMITED stays that word, and nothing
# stays nothing: neither is 0.
timestr2secs() {
    ckpt slurm seconds "${1:-}"
}

# ---- rounds --------------------------------------------------------------------------------------

# How often this job was requeued.
restart_count() {
    echo "${SLURM_RESTART_COUNT:-0}"
}

# ckpt slurm $1, with what the job script wishes: ckpt_overhead (seconds between signal and end), and
# max_timelimit (the longest round: seconds, or a time of Slurm's that is no lone number).
cr_slurm() {
    local wishes=() max=${max_timelimit:-}
    [[ ! $max =~ ^[0-9]+$ ]] || max=$(secs2timestr "$max")
    [[ -z ${ckpt_overhead:-} ]] || wishes+=(--overhead "$ckpt_overhead")
    [[ -z $max ]] || wishes+=(--max "$max")
    ckpt slurm "$1" "${wishes[@]}"
}

# Sets TOTAL_TIME, timeAlloc, used, remainingTimeSec (seconds), remainingTime (HH:MM:SS), requestTime
# (minutes), max_timelimit and ckpt_overhead (seconds), as things stand now. What is not known is empty.
parse_job() {
    local plan
    plan=$(cr_slurm plan) || return $?
    eval "$plan"
    # shellcheck disable=SC2154 # the plan sets them
    echo "checkpoint overhead \$ckpt_overhead: $(secs2timestr "$ckpt_overhead")"
    # shellcheck disable=SC2154
    echo "maximum time limit \$max_timelimit: $(secs2timestr "${max_timelimit:-UNLIMITED}")"
    # shellcheck disable=SC2154
    echo "time remaining \$remainingTime: ${remainingTime:-not limited}"
    # shellcheck disable=SC2154
    echo "next time limit \$requestTime: ${requestTime:-the same}"
}

# requeue_job FUNC SIGNAL...: calls FUNC with the signal's name when one of them comes. In the last
# round as well: whether there is another one is asked when it matters.
requeue_job() {
    local function=${1:-func_trap} signal
    shift
    for signal; do
        # shellcheck disable=SC2064 # meant to be expanded now
        trap "$function $signal" "$signal" || return $?
    done
    parse_job
}

# Before the end of a round: runs $ckpt_command, and has the job requeued if it can go on from there.
func_trap() {
    local status=0
    # Requeueing sends TERM at once, to this shell and to the commands that it waits for.
    trap '' TERM
    ${ckpt_command:-true} >&2 || status=$?
    if cr_may_go_on "$status" && cr_slurm requeue >&2; then
        # Slurm does not reach into every container; what runs on there would be in the next one's way.
        [[ ! -x $cr_command ]] || "$cr_command" --quit &>/dev/null
        return 0
    fi
    trap - TERM
    return 1
}

# Whether the job can go on in another round, after a checkpoint command that ended with status $1.
cr_may_go_on() {
    local script=${DMTCP_CHECKPOINT_DIR:-$PWD}/dmtcp_restart_script.sh
    if (($1 == 0)); then
        return 0
    elif [[ -z $(jobs -rp) ]]; then
        cr_say "the payload has ended: the job is not requeued"
    elif (($1 == 2)); then
        cr_say "the payload has not begun: it begins in the next round"
        return 0
    elif [[ -x $script ]]; then
        cr_say "no new checkpoint: the next round goes on from the one before"
        return 0
    else
        cr_say "there is no checkpoint at all: the job is not requeued"
    fi
    return 1
}

# Waits for process $1, traps or not; with its exit status, and 127 if it is not our child.
wait_pid() {
    local pid=${1:-}
    if [[ ! $pid =~ ^[1-9][0-9]*$ ]]; then
        cr_say "wait_pid: '$pid' is no process"
        return 64
    fi
    while [[ -e /proc/$pid ]]; do
        # A trap cuts it short, and for those that are not our children it does nothing.
        wait "$pid" 2>/dev/null
        [[ ! -e /proc/$pid ]] || sleep 0.5
    done
    wait "$pid" 2>/dev/null
}

# ---- DMTCP ---------------------------------------------------------------------------------------

# dmtcp_command_job HOST PORT: makes the command that speaks to the coordinator there.
dmtcp_command_job() {
    local new=$cr_command.$$
    {
        echo '#!/bin/bash'
        # It may be called where PATH is another: outside of the container.
        # shellcheck disable=SC2016 # expanded when it is called
        printf 'PATH=${PATH:+$PATH:}%q\n' "$PATH"
        printf 'export PATH DMTCP_COORD_HOST=%q DMTCP_COORD_PORT=%q\n' "$1" "$2"
        # shellcheck disable=SC2016
        echo 'export CKPT_SECRET_FILE=${CKPT_SECRET_FILE:-$0.secret}'
        # shellcheck disable=SC2016
        echo 'exec dmtcp_command "$@"'
    } >"$new" && chmod a+rx "$new" && mv -f "$new" "$cr_command"
}

# start_coordinator [OPTION...]: starts a coordinator for this job, and leads DMTCP's commands to it.
start_coordinator() {
    local file=$cr_command.port log=$cr_command.log port='' begun=$SECONDS
    local host=127.0.0.1 bind=${CKPT_BIND:-}
    if ! command -v dmtcp_coordinator >/dev/null; then
        cr_say "there is no dmtcp_coordinator in PATH ($PATH)"
        return 127
    fi
    # The host's own name may mean nothing inside a container; others need it to find us.
    if ((${SLURM_JOB_NUM_NODES:-1} > 1)); then
        host=$(uname -n) bind=${bind:-0.0.0.0}
    fi
    rm -f "$file" "$cr_command"
    if ! CKPT_BIND=${bind:-127.0.0.1} dmtcp_coordinator --daemon --exit-on-last -p 0 \
        --port-file "$file" "$@" >"$log" 2>&1 </dev/null; then
        cr_say "the coordinator does not start: $(tail -n 3 "$log")"
        return 1
    fi
    until [[ $port =~ ^[1-9][0-9]*$ ]]; do
        if ((SECONDS - begun > cr_patience)); then
            cr_say "the coordinator has not written its port to $file: $(tail -n 3 "$log")"
            return 1
        fi
        sleep 0.1
        port=$(cat "$file" 2>/dev/null)
    done
    export DMTCP_COORD_HOST=$host DMTCP_COORD_PORT=$port
    dmtcp_command_job "$host" "$port"
}

# Asks by command $1: cr_peers is how many processes are connected, cr_running is yes or no. By their
# keys, as there may be more words than one expects. Status 1 if there is no answer.
cr_status() {
    local key value answered=1
    cr_peers=0 cr_running=no
    while IFS='= ' read -r key value _; do
        case $key in
            NUM_PEERS) [[ ! $value =~ ^[0-9]+$ ]] || cr_peers=$value answered=0 ;;
            RUNNING) cr_running=$value ;;
        esac
    done < <("$1" --status 2>/dev/null)
    return "$answered"
}

# Waits until the job runs again after its checkpoint. Status 2 if there is no job yet, 1 if that takes
# too long or nobody knows. wait_coord2: the same where DMTCP's own variables lead to the coordinator.
wait_coord() {
    local command=${1:-$cr_command} begun=$SECONDS
    if ! command -v "$command" >/dev/null; then
        cr_say "no running job to checkpoint: it has no coordinator yet"
        return 2
    fi
    while cr_status "$command"; do
        if ((cr_peers == 0)); then
            cr_say "no running job to checkpoint"
            return 2
        elif [[ $cr_running == yes ]]; then
            echo "checkpointing completed, overhead = $((SECONDS - begun)) seconds"
            return 0
        elif ((SECONDS - begun > cr_patience)); then
            cr_say "the job does not run again after its checkpoint"
            return 1
        fi
        sleep 0.5
    done
    cr_say "no running job to checkpoint: its coordinator does not answer"
    return 1
}

wait_coord2() {
    wait_coord dmtcp_command
}

# Takes a checkpoint that is durable when it returns. Status 2 if there is no job. ckpt_mana: the same
# where DMTCP's own variables lead to the coordinator.
ckpt_dmtcp() {
    local command=${1:-$cr_command}
    if ! "$command" --bcheckpoint; then
        # It is refused while another one is under way: that is waited for.
        wait_coord "$command" >/dev/null || return $?
        if ! "$command" --bcheckpoint; then
            cr_say "the checkpoint has failed"
            return 1
        fi
    fi
    wait_coord "$command"
}

ckpt_mana() {
    ckpt_dmtcp dmtcp_command
}
