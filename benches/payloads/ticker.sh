#!/bin/bash
# A shell that counts, and in a second process one that waits for a child every hundredth of a second.
# The first ticks as often as it comes round, and says what ticker.c says.
LC_ALL=C
trap 'echo here' HUP
(while kill -0 $$ 2>/dev/null; do sleep 0.01; done) &
echo "ready $$"
last=${EPOCHREALTIME/./}
while ((SECONDS < 1800)); do
    ((x = (x * 1103515245 + 12345) % 2147483648))
    now=${EPOCHREALTIME/./}
    ((now - last > 2000)) && echo "late ${now}e-6 $((now - last))e-6"
    last=$now
done
