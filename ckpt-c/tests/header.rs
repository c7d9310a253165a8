//! The committed header is what cbindgen makes of the source, and compilers of C and C++ take it.
#![allow(missing_docs, reason = "tests")]

use std::path::Path;
use std::process::Command;

const BLESS: &str = "CKPT_BLESS";

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_header_is_up_to_date() {
    let mut made = Vec::new();
    let config = cbindgen::Config::from_file(crate_dir().join("cbindgen.toml")).unwrap();
    // It follows the modules from there.
    let builder = cbindgen::Builder::new().with_config(config);
    let builder = builder.with_src(crate_dir().join("src/lib.rs"));
    builder.generate().unwrap().write(&mut made);
    let made = String::from_utf8(made).unwrap();
    let path = crate_dir().join("include/ckpt.h");
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == made, "include/ckpt.h is out of date; {BLESS}=1 writes it anew:\n{made}");
}

#[test]
fn compilers_take_the_headers() {
    for (compiler, language) in [("cc", "c"), ("c++", "c++")] {
        for header in ["ckpt.h", "veloc.h"] {
            let mut command = Command::new(compiler);
            command.args([
                "-x",
                language,
                "-Wall",
                "-Wextra",
                "-Wpedantic",
                "-Werror",
                "-fsyntax-only",
            ]);
            let output = command.arg(crate_dir().join("include").join(header)).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}
