#!/bin/bash
# A batch script as people write them: a child program per step, a pipeline, a background job with
# `wait`, a trap, process substitution, a here-document. Ends with status 3.
exec >"$1"
steps=${2:-${STEPS:-40}}
# A file per step: what a restart runs again, it writes again.
here=$1.d
mkdir -p "$here"
trap 'rm -rf "$here"' EXIT
trap 'told=$((told + 1))' USR1
told=0
sum=0
RANDOM=42

background() {
    local i x=$1
    for ((i = 0; i < 7000; i++)); do x=$(((x * 1103515245 + 12345) % 2147483648)); done
    echo "$x" >"$here/$1"
    exit $(($1 % 7))
}

for ((step = 1; step <= steps; step++)); do
    background "$step" &
    job=$!
    digest=$(seq 1 $((step * 100 + 20000)) | sort -rn | awk '{ s = (s * 31 + $1) % 1000003 } END { print s }')
    read -r first rest < <(seq -s' ' "$step" $((step + 5)))
    there=$(cat <<END
$first and $rest
END
)
    wait "$job"
    status=$?
    kill -USR1 $$
    kill -0 $$ || exit 9
    sum=$(((sum * 33 + digest + $(<"$here/$step") + status + RANDOM) % 1000000007))
    echo "step $step digest $digest job $status told $told ($there) sum $sum"
done
jobs -p
echo "checksum $sum $told"
exit 3
