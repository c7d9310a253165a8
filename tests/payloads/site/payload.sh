#!/bin/bash
# A long computation in one output file, "output" or what is named. After steps 10 and 20 it waits for
# the files that let it go on, so that there is time for whatever is done to it. It starts no other
# programs: DMTCP loses those that are born during a checkpoint. Ends with status 7.
name=${1:-output}
exec >"$name"
sum=1
for ((step = 1; step <= 30; step++)); do
    for ((i = 0; i < 2000; i++)); do sum=$(((sum * 1103515245 + step + 12345) % 2147483648)); done
    echo "step $step sum $sum"
    ((step % 10 || step == 30)) && continue
    until [ -e "$name.go$step" ]; do read -rt 0.02; done
done
echo "checksum $sum"
exit 7
