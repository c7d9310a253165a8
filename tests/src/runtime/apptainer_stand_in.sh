#!/bin/bash
# Takes apptainer's command lines as far as tests use them, and has bubblewrap do what apptainer does:
# a user and a mount namespace and no other, the image read-only, the user's home, the current folder,
# /tmp, /proc, /sys and /dev as they are outside, the environment kept.
set -eu

[ "${1:-}" != --version ] || { echo "apptainer version 1.4.5-stand-in"; exit; }
while [[ "${1:-}" == -* ]]; do shift; done
[ "${1:-}" = exec ] || { echo "FATAL: only exec is known to this stand-in" >&2; exit 255; }
shift

binds=() words=() folder=$PWD
bind() {
    local from to how
    IFS=: read -r from to how <<<"$1"
    case ${how:-rw} in
        ro) binds+=(--ro-bind "$from" "${to:-$from}") ;;
        *) binds+=(--bind "$from" "${to:-$from}") ;;
    esac
}
binds_of() {
    local one all
    IFS=, read -ra all <<<"$1"
    for one in "${all[@]}"; do bind "$one"; done
}
while [[ "${1:-}" == -* ]]; do
    case $1 in
        -B | --bind) binds_of "$2"; shift ;;
        --bind=*) binds_of "${1#*=}" ;;
        --pwd | --cwd) folder=$2; shift ;;
        --pwd=* | --cwd=*) folder=${1#*=} ;;
        --env) words+=(--setenv "${2%%=*}" "${2#*=}"); shift ;;
        --env=*) one=${1#*=}; words+=(--setenv "${one%%=*}" "${one#*=}") ;;
        -e | --cleanenv) words+=(--clearenv --setenv PATH /usr/bin:/bin --setenv HOME "$HOME") ;;
        *) ;;
    esac
    shift
done
[ -d "${1:-}" ] || { echo "FATAL: could not open image ${1:-}" >&2; exit 255; }
image=$1
shift

# What can be mounted on must be ours: a new root, with the image's folders in it.
root=(--tmpfs /)
for path in "$image"/* "$image"/opt/*; do
    name=${path#"$image"}
    case $name in
        /opt | /home | /tmp | /proc | /sys | /dev | /etc) continue ;;
        *'*') continue ;;
    esac
    if [ -L "$path" ]; then
        root+=(--symlink "$(readlink "$path")" "$name")
    else
        root+=(--ro-bind "$path" "$name")
    fi
done
[ ! -d "$image/etc" ] || root+=(--ro-bind "$image/etc" /etc)
exec bwrap --unshare-user "${root[@]}" --dev-bind /dev /dev --bind /proc /proc --bind /sys /sys \
    --bind /tmp /tmp --bind-try /var/tmp /var/tmp --bind-try "$HOME" "$HOME" --bind-try "$PWD" "$PWD" \
    --chdir "$folder" "${binds[@]}" "${words[@]}" -- "$@"
