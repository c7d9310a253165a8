#!/bin/bash
# A child per step, and which number it has.
exec >"$1"
for ((step = 1; step <= ${STEPS:-300}; step++)); do
    (exit $((step % 100))) &
    wait $!
    echo "step $step child $! status $?"
done
