//! The GNU build id of an ELF file: the same file under another time stamp is known by it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;

use goblin::container::Ctx;
use goblin::elf::note::{NT_GNU_BUILD_ID, NoteDataIterator};
use goblin::elf::program_header::PT_NOTE;
use goblin::elf::{Elf, ProgramHeader};

/// What is read at first holds all that is wanted of most files.
const BEGINNING: usize = 4096;
/// What is longer is none of what is wanted.
const MOST: usize = 64 << 10;

/// The build id of the file at `path`; `None` if it is no ELF file or has none.
pub(crate) fn build_id(path: &[u8]) -> Option<Vec<u8>> {
    let mut beginning = [0; BEGINNING];
    let file = File::open(OsStr::from_bytes(path)).ok()?;
    let length = file.read_at(&mut beginning, 0).ok()?;
    let beginning = beginning.get(..length)?;
    if !beginning.starts_with(b"\x7fELF") {
        return None;
    }
    // Symbols and relocations take longer, and are not wanted.
    let header = Elf::parse_header(beginning).ok()?;
    let context = Ctx::new(header.container().ok()?, header.endianness().ok()?);
    let (at, count) = (header.e_phoff, header.e_phnum as usize);
    let headers = part(&file, beginning, at, count * ProgramHeader::size(context))?;
    let headers = ProgramHeader::parse(&headers, 0, count, context).ok()?;
    headers.iter().filter(|header| header.p_type == PT_NOTE).find_map(|header| {
        let data = part(&file, beginning, header.p_offset, header.p_filesz as usize)?;
        let context = (header.p_align as usize, context);
        let mut notes = NoteDataIterator { data: &data, size: data.len(), offset: 0, ctx: context };
        let is_wanted = |name: &str, kind: u32| name == "GNU" && kind == NT_GNU_BUILD_ID;
        notes
            .find_map(|note| note.ok().filter(|it| is_wanted(it.name, it.n_type)))
            .map(|note| note.desc.to_vec())
    })
}

/// A part of a file, whose beginning is known.
fn part(file: &File, beginning: &[u8], at: u64, length: usize) -> Option<Vec<u8>> {
    let end = usize::try_from(at).ok()?.checked_add(length)?;
    if let Some(known) = beginning.get(at as usize..end) {
        return Some(known.to_vec());
    }
    let mut bytes = vec![0; Some(length).filter(|length| *length <= MOST)?];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    use super::*;

    /// As readelf(1) sees it.
    fn told(path: &str) -> String {
        let output = Command::new("readelf").args(["-n", path]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.trim().strip_prefix("Build ID: "));
        line.unwrap_or_default().to_owned()
    }

    fn shown(path: &[u8]) -> String {
        build_id(path).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn programs_and_libraries_have_one() {
        let own = std::env::current_exe().unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libraries = maps.lines().filter_map(|line| line.split_ascii_whitespace().nth(5));
        let mut all: Vec<&str> = libraries.filter(|path| path.contains(".so")).collect();
        all.push(own.to_str().unwrap());
        all.dedup();
        assert!(all.len() > 2);
        // Not every distribution gives its libraries any.
        assert!(all.iter().any(|path| !told(path).is_empty()), "{all:?}");
        for path in all {
            assert_eq!(shown(path.as_bytes()), told(path), "{path}");
        }
    }

    #[test]
    fn whatever_else_there_is_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let none = |bytes: &[u8]| {
            let path = dir.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            build_id(path.as_os_str().as_bytes()).is_none()
        };
        assert!(none(b"") && none(b"#!/bin/sh\n") && none(b"\x7fELF"));
        assert!(build_id(b"/nowhere").is_none());
        // Cut short anywhere in its headers; then headers that lead nowhere.
        assert!((0..200).all(|length| none(&own[..length])));
        let mut astray = own;
        astray[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(none(&astray));
    }
}
