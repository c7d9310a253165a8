#!/bin/bash
# Steps until the file NAME.finish is there, or until STEPS are made: however long a queue takes, the
# output depends on the number of steps alone. NAME is opened once; NAME.journal anew for each line,
# so a step that is made twice is seen there. Ends with the status in NAME.finish, if there is one.
name=$1 steps=${2:-0}
exec >"$name"
sum=1
for ((step = 1; ; step++)); do
    for ((i = 0; i < 50; i++)); do sum=$(((sum * 1103515245 + step + 12345) % 2147483648)); done
    echo "step $step sum $sum"
    echo "$step" >>"$name.journal"
    ((step == steps)) && break
    [ -e "$name.finish" ] && break
    # What no image can hold, as long as it is open.
    if [ -e "$name.refuse" ] && [ ! -e "$name.refused" ]; then
        exec 9<>/dev/udp/127.0.0.1/9 && : >"$name.refused"
    fi
    [ "$PACE" ] || sleep 0.05
done
echo "checksum $sum"
[ -s "$name.finish" ] && exit "$(<"$name.finish")"
exit 0
