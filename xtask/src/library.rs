//! The library for C: headers, a shared object with versioned symbols, an archive, and what pkg-config says.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::{Result, built, cargo, must, workspace};

/// Programs that are linked with one of these run with later ones as well.
const SONAME: &str = "libckpt.so.0";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What Rust's standard library needs.
const SYSTEM: [&str; 3] = ["-lpthread", "-ldl", "-lm"];

/// Builds it, and puts it into PREFIX/lib and PREFIX/include.
pub fn put(prefix: &Path) -> Result {
    let (crate_dir, lib, include) =
        (workspace().join("ckpt-c"), prefix.join("lib"), prefix.join("include"));
    must(cargo().args(["build", "--release", "-p", "ckpt-c"]))?;
    for folder in [&lib.join("pkgconfig"), &include] {
        fs::create_dir_all(folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    }
    let archive = built().join("libckpt.a");
    copy(&archive, &lib.join("libckpt.a"))?;
    for header in ["ckpt.h", "veloc.h"] {
        copy(&crate_dir.join("include").join(header), &include.join(header))?;
    }
    // rustc has a version script of its own, and a linker takes one only.
    let name = format!("libckpt.so.{VERSION}");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-s", "-o"]).arg(lib.join(&name)).arg("-Wl,--whole-archive").arg(&archive);
    cc.args(["-Wl,--no-whole-archive", "-Wl,--gc-sections", "-Wl,-z,defs"]);
    cc.arg(format!("-Wl,-soname,{SONAME}"));
    cc.arg(format!("-Wl,--version-script,{}", crate_dir.join("ckpt.map").display()));
    must(cc.args(SYSTEM).arg("-lgcc_s").arg("-lc"))?;
    for link in [SONAME, "libckpt.so"] {
        let path = lib.join(link);
        let _ = fs::remove_file(&path);
        symlink(&name, &path).map_err(|e| format!("cannot make {}: {e}", path.display()))?;
    }
    let text = pkg_config(prefix);
    let path = lib.join("pkgconfig/ckpt.pc");
    fs::write(&path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result {
    let copied = fs::copy(from, to).map(drop);
    copied.map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))
}

fn pkg_config(prefix: &Path) -> String {
    let (prefix, system) = (prefix.display(), SYSTEM.join(" "));
    format!(
        "prefix={prefix}
libdir=${{prefix}}/lib
includedir=${{prefix}}/include

Name: ckpt
Description: checkpoints that a program takes of its own arrays, or of itself as a whole
Version: {VERSION}
Libs: -L${{libdir}} -lckpt
Libs.private: {system}
Cflags: -I${{includedir}}
"
    )
}
