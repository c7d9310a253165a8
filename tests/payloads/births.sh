#!/bin/bash
# A child per step, and which number it has. In the middle it waits for a permission.
exec >"$1"
for ((step = 1; step <= ${STEPS:-300}; step++)); do
    ((step == 150)) && until [[ -e $1.go ]]; do sleep 0.01; done
    (exit $((step % 100))) &
    wait $!
    echo "step $step child $! status $?"
done
