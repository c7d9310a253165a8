
usage() {
    cat <<'END'
USAGE:
  dmtcp_restart_script.sh [OPTIONS]

OPTIONS:
  --coord-host, --host, -h HOST (environment variable DMTCP_COORD_HOST)
      Where the coordinator runs (default: as at the checkpoint)
  --coord-port, --port, -p PORT (environment variable DMTCP_COORD_PORT)
      Its port (default: as at the checkpoint)
  --coord-logfile PATH (environment variable DMTCP_COORD_LOG_FILENAME)
      File that the coordinator logs to
  --hostfile FILE
      Hosts to restart on in place of the old ones, one a line; "#" begins a comment
  --restartdir, -d DIR (environment variable DMTCP_RESTART_DIR)
      Where the images are now
  --ckptdir DIR (environment variable DMTCP_CKPT_DIR)
      Where later images go (default: beside the old ones)
  --tmpdir, -t DIR (environment variable DMTCP_TMPDIR)
      Directory for temporary files (default: $TMPDIR or /tmp)
  --no-strict-checking (environment variable DMTCP_DISABLE_STRICT_CHECKING)
      Take images of other users too
  --interval, -i SECONDS (environment variable DMTCP_CHECKPOINT_INTERVAL)
      Time between automatic checkpoints (default: as at the checkpoint)
  --help
      Print this message and exit
END
}

coord_host=${DMTCP_COORD_HOST:-$default_host}
coord_port=${DMTCP_COORD_PORT:-$default_port}
interval=${DMTCP_CHECKPOINT_INTERVAL:-$default_interval}
restartdir=${DMTCP_RESTART_DIR:-}
ckptdir=${DMTCP_CKPT_DIR:-}
tmpdir=${DMTCP_TMPDIR:-}
logfile=
hostfile=
strict=

while [ $# -gt 0 ]; do
    case $1 in
        --help)
            usage
            exit 0
            ;;
        --no-strict-checking)
            strict=$1
            shift
            continue
            ;;
        --coord-host | --host | -h) name=coord_host ;;
        --coord-port | --port | -p) name=coord_port ;;
        --coord-logfile) name=logfile ;;
        --hostfile) name=hostfile ;;
        --restartdir | -d) name=restartdir ;;
        --ckptdir) name=ckptdir ;;
        --tmpdir | -t) name=tmpdir ;;
        --interval | -i) name=interval ;;
        *)
            echo "$0: unrecognized option '$1'. See correct usage below"
            usage
            exit 0
            ;;
    esac
    if [ $# -lt 2 ]; then
        echo "$0: option '$1' needs an argument" >&2
        exit 1
    fi
    printf -v "$name" %s "$2"
    shift 2
done

[ -x "$dmtcp_restart" ] || dmtcp_restart=$(command -v dmtcp_restart) || {
    echo "$0: dmtcp_restart not found" >&2
    exit 1
}

groups=${#hosts[@]}
if [ -n "$hostfile" ]; then
    if [ ! -f "$hostfile" ]; then
        echo "ERROR: hostfile $hostfile not found" >&2
        exit 1
    fi
    mapfile -t hosts < <(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' "$hostfile")
    if [ "${#hosts[@]}" -lt "$groups" ]; then
        echo "ERROR: hostfile $hostfile names ${#hosts[@]} hosts, $groups are needed" >&2
        exit 1
    fi
fi

options=(--coord-host "$coord_host" --coord-port "$coord_port")
[ -z "$ckptdir" ] || options+=(--ckptdir "$ckptdir")
# On several hosts a coordinator must be running before: none of them could start it for all.
[ "$groups" -eq 1 ] || options+=(--join-coordinator)
options+=(--interval "$interval")
[ -z "$tmpdir" ] || options+=(--tmpdir "$tmpdir")
[ -z "$strict" ] || options+=("$strict")
[ -z "$logfile" ] || options+=(--coord-logfile "$logfile")
[ -z "${CKPT_SECRET_FILE:-}" ] || options+=(--secret-file "$CKPT_SECRET_FILE")

# Whether $1 is the host that we are on.
is_here() {
    local here
    here=$(uname -n)
    case " localhost 127.0.0.1 $here $(hostname -I 2>/dev/null) " in
        *" $1 "*) return 0 ;;
    esac
    [ "${1%%.*}" = "${here%%.*}" ]
}

local_images=()
pids=
for ((group = 0; group < groups; group++)); do
    host=${hosts[group]}
    recorded="images_$group[@]"
    images=()
    for image in "${!recorded}"; do
        [ -z "$restartdir" ] || image=$restartdir/${image##*/}
        images+=("$image")
    done
    if is_here "$host" || { [ "$groups" -eq 1 ] && [ -z "$hostfile" ]; }; then
        local_images+=("${images[@]}")
    else
        words=$(printf '%q ' "$dmtcp_restart" "${options[@]}" "${images[@]}")
        ${DMTCP_REMOTE_SHELL_CMD:-ssh} "$host" "$words" </dev/null &
        pids="$pids $!"
    fi
done

if [ "${#local_images[@]}" -gt 0 ]; then
    exec "$dmtcp_restart" "${options[@]}" "${local_images[@]}"
fi

status=0
for pid in $pids; do
    wait "$pid" || status=$?
done
exit "$status"
