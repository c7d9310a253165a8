#!/bin/bash
# As steps.sh, but in two processes with a pipe between them, which is never quite empty.
name=$1 steps=${2:-0}
produce() {
    local step sum=7
    for ((step = 1; ; step++)); do
        sum=$(((sum * 69069 + step) % 1000000007))
        echo "$step $sum"
        ((step == steps)) && break
        [ -e "$name.finish" ] && break
        [ "$PACE" ] || sleep 0.05
    done
}
produce | {
    exec >"$name"
    total=0
    while read -r step sum; do
        total=$(((total * 31 + sum) % 1000000007))
        echo "step $step total $total"
        echo "$step" >>"$name.journal"
    done
    echo "checksum $total"
}
