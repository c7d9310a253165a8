#!/bin/bash
# payload.sh [STEPS [FILE]]: a long computation, a line a step in FILE. Its result is the same however
# often it was interrupted: FILE is opened once, so that a restart writes on where the checkpoint was.
# (What goes to stdout after a checkpoint, and is said again after the restart, stands there twice.)

steps=${1:-1000}
exec >"${2:-result.txt}"
sum=1
for ((step = 1; step <= steps; step++)); do
    for ((i = 0; i < 50000; i++)); do sum=$(((sum * 1103515245 + step + 12345) % 2147483648)); done
    echo "step $step sum $sum"
done
echo "done $sum"
