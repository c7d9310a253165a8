//! The object is to need no library at all, not even the C library's start files.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for argument in ["-nostdlib", "-nostartfiles", "-Wl,--gc-sections", "-Wl,-z,defs"] {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
}
