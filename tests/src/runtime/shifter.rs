//! Shifter's imitation: a program of a hundred system calls, and a script for `shifterimg`. Both know
//! the images by the names of their folders.

use std::path::PathBuf;

use super::cache::Part;
use super::made;

const SCRIPT: &str = r#"
    mkdir bin udi
    cc -O2 -Wall -Wextra -Werror -DROOT="\"$PWD/udi\"" -DIMAGES="\"$CACHE\"" \
        -o bin/shifter "$SOURCES/shifter.c"
    chown "root:$GROUP" bin/shifter
    chmod 4750 bin/shifter
    cat >bin/shifterimg <<END
#!/bin/sh
# shifterimg lookup NAME
name=\${2#docker:}
name=\${name%:latest}
if [ "\$1" = lookup ] && [ -n "\$name" ] && [ "\$name" = "\${name##*/}" ] &&
    cat "$CACHE/\$name/id" 2>/dev/null; then
    exit 0
fi
echo "FAILED to look up image" >&2
exit 1
END
    chmod 755 bin/shifterimg
"#;

pub(super) fn ready() -> PathBuf {
    made(Part::new("shifter", SCRIPT, &[include_str!("shifter.c")], &[]).folder()).join("bin")
}
