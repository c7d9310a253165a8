#!/bin/bash
# example_g4.sh [CONFIGURATION]: runs example_g4.py, which lies beside it, on g4bench.conf.
# Geant4 wants to know where its data are, even where none of them are read: a site that has them
# has set these variables; for all others a folder with what is asked for at the start will do.
set -e
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export GEANT4_DATA_DIR=${GEANT4_DATA_DIR:-$PWD/g4data}
export G4ENSDFSTATEDATA=${G4ENSDFSTATEDATA:-$GEANT4_DATA_DIR/ENSDFSTATE}
if [ ! -e "$G4ENSDFSTATEDATA" ]; then
    mkdir -p "$G4ENSDFSTATEDATA"
    echo "1 1 0.0 - -1 0 0" >"$G4ENSDFSTATEDATA/ENSDFSTATE.dat"
fi
exec python3 "$here/example_g4.py" "$@"
