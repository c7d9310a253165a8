//! The examples in C, killed and started again: they end with the same last bit as if nothing had happened, and as
//! the same program in Rust.
#![allow(missing_docs, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of the library, beside which cargo puts the tests.
fn library() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let places = own.ancestors().skip(1).take(2);
    let found = places.map(Path::to_path_buf).find(|dir| dir.join("libckpt.so").exists());
    found.expect("cargo builds the library for its tests")
}

fn compiled(name: &str, folder: &TempDir) -> PathBuf {
    let (program, library) = (folder.path().join(name), library());
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&program);
    cc.arg(crate_dir().join("examples").join(format!("{name}.c")));
    cc.arg("-I").arg(crate_dir().join("include")).arg("-L").arg(&library).arg("-lckpt");
    let output = cc.arg(format!("-Wl,-rpath,{}", library.display())).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// `program place 60000 3000 every`.
fn run(program: &Path, place: &Path, every: &str) -> Command {
    let mut command = Command::new(program);
    // Cargo sets it, to folders with older ones perhaps.
    command.env("LD_LIBRARY_PATH", library());
    command.arg(place).args(["60000", "3000", every]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Lets it run to its end; its result.
fn ends(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Kills it when it has said so many lines; the first of them.
fn killed_after(mut command: Command, lines: usize) -> String {
    let mut child = command.spawn().unwrap();
    let said = BufReader::new(child.stderr.take().unwrap()).lines();
    let said: Vec<String> = said.map_while(Result::ok).take(lines).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    said.into_iter().next().expect("it says something")
}

fn goes_on(program: &Path, alone: &Path, often: &Path) -> String {
    let expected = ends(run(program, alone, "100000"));
    assert!(killed_after(run(program, often, "50"), 3).starts_with("version"));
    for lines in [2, 5, 3, 9] {
        let first = killed_after(run(program, often, "50"), lines);
        assert!(first.starts_with("goes on from version"), "{first}");
    }
    assert_eq!(ends(run(program, often, "50")), expected);
    expected
}

#[test]
fn heat_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let program = compiled("heat", &folder);
    let result = goes_on(&program, &folder.path().join("alone"), &folder.path().join("often"));
    let veloc = compiled("veloc", &folder);
    for mode in ["sync", "async"] {
        let configuration = |name: &str| {
            let path = folder.path().join(format!("{name}-{mode}.cfg"));
            let images = folder.path().join(format!("{name}-{mode}"));
            let text =
                format!("persistent = {}\nmode = {mode}\nmax_versions = 2\n", images.display());
            std::fs::write(&path, text).unwrap();
            path
        };
        let again = goes_on(&veloc, &configuration("alone"), &configuration("often"));
        assert_eq!(again, result, "{mode}");
    }
}

/// What C may get wrong is told, and does no harm.
#[test]
fn mistakes_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("mistakes.c");
    std::fs::write(&source, MISTAKES).unwrap();
    let (program, library) = (folder.path().join("mistakes"), library());
    let mut cc = Command::new("cc");
    cc.args(["-Wall", "-Werror", "-o"]).arg(&program).arg(&source);
    cc.arg("-I").arg(crate_dir().join("include")).arg("-L").arg(&library).arg("-lckpt");
    assert!(cc.arg(format!("-Wl,-rpath,{}", library.display())).status().unwrap().success());
    let mut command = Command::new(&program);
    command.env("LD_LIBRARY_PATH", &library).arg(folder.path().join("images"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

const MISTAKES: &str = r#"
#include <ckpt.h>
#include <stdio.h>
#include <string.h>
#define IS(status, words, call) \
    if ((call) != (status) || !strstr(ckpt_error(), words)) \
        return printf("%d: %s\n", __LINE__, ckpt_error()), 1
int main(int argc, char **argv) {
    ckpt_store *store = NULL;
    ckpt_options options;
    double field[10] = {1, 2, 3}, other[5];
    uint64_t ten = 10, five = 5, version = 0;
    ckpt_region region;
    IS(CKPT_USAGE, "dir is NULL", ckpt_open(NULL, "x", NULL, &store));
    IS(CKPT_USAGE, "UTF-8", ckpt_open(argv[argc - 1], "\xff", NULL, &store));
    IS(CKPT_USAGE, "needs a name", ckpt_open(argv[1], "", NULL, &store));
    memset(&options, 0, sizeof options);
    IS(CKPT_USAGE, "ckpt_options_init", ckpt_open(argv[1], "x", &options, &store));
    if (ckpt_options_init(&options)) return 2;
    options.level = 99;
    IS(CKPT_USAGE, "level 99", ckpt_open(argv[1], "x", &options, &store));
    options.level = CKPT_LEVEL_AUTO;
    if (ckpt_open(argv[1], "x", &options, &store)) return 3;
    IS(CKPT_USAGE, "data is NULL", ckpt_protect(store, "field", CKPT_FLOAT, 8, &ten, 1, NULL));
    IS(CKPT_USAGE, "no ckpt_kind", ckpt_protect(store, "field", 9, 8, &ten, 1, field));
    uint64_t absurd[2] = {1ull << 40, 1ull << 40};
    IS(CKPT_USAGE, "no memory", ckpt_protect(store, "field", CKPT_FLOAT, 8, absurd, 2, field));
    IS(CKPT_NOT_FOUND, "protected", ckpt_unprotect(store, "field"));
    if (ckpt_protect(store, "field", CKPT_FLOAT, 8, &ten, 1, field)) return 4;
    IS(CKPT_NOT_FOUND, "no version", ckpt_latest(store, CKPT_NEWEST, &version));
    IS(CKPT_NOT_FOUND, "no version", ckpt_load(store, CKPT_NEWEST, NULL));
    if (ckpt_save(store, 3)) return 5;
    IS(CKPT_USAGE, "cannot follow", ckpt_save(store, 3));
    IS(CKPT_NOT_FOUND, "", ckpt_describe(store, 7, 0, "field", &region));
    IS(CKPT_NOT_FOUND, "only field", ckpt_describe(store, 3, 0, "x", &region));
    if (ckpt_describe(store, 3, 0, "field", &region) || region.elements != 10 || region.dims != 1
        || region.kind != CKPT_FLOAT || strcmp(region.name, "field")) return 6;
    IS(CKPT_NOT_FOUND, "number 1", ckpt_region_at(store, 3, 0, 1, &region));
    IS(CKPT_USAGE, "from 6 on", ckpt_read(store, 3, 0, "field", CKPT_FLOAT, 8, 6, 5, other));
    IS(CKPT_USAGE, "not Signed", ckpt_read(store, 3, 0, "field", CKPT_SIGNED, 8, 0, 5, other));
    if (ckpt_read(store, 3, 0, "field", CKPT_FLOAT, 8, 1, 5, other) || other[1] != 3) return 7;
    if (ckpt_protect(store, "field", CKPT_FLOAT, 8, &five, 1, other)) return 8;
    IS(CKPT_USAGE, "ckpt_describe", ckpt_load(store, CKPT_NEWEST, NULL));
    if (ckpt_protect(store, "field", CKPT_FLOAT, 8, &ten, 1, field)) return 11;
    if (ckpt_protect(store, "later", CKPT_FLOAT, 8, &five, 1, other)) return 12;
    field[0] = -1;
    IS(CKPT_USAGE, "was not saved", ckpt_load(store, CKPT_NEWEST, NULL));
    if (field[0] != -1) return 13;
    if (ckpt_unprotect(store, "later") || ckpt_load(store, CKPT_NEWEST, &version)) return 14;
    if (field[0] != 1 || version != 3) return 15;
    IS(CKPT_USAGE, "no critical section", ckpt_defer_end());
    IS(CKPT_USAGE, "is NULL", ckpt_save(NULL, 1));
    IS(0, "no ckpt_moment", ckpt_hook(9, NULL, NULL));
    IS(CKPT_USAGE, "no hook", ckpt_unhook(5));
    if (ckpt_policy_new(-1, 0)) return 9;
    ckpt_policy *policy = ckpt_policy_new(1e6, 0);
    if (!policy || ckpt_should_checkpoint(policy) != CKPT_NOT_NOW) return 10;
    ckpt_policy_free(policy);
    ckpt_close(store);
    ckpt_close(NULL);
    return 0;
}
"#;
