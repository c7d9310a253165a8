//! The GNU build id of an ELF file: the same file under another time stamp is known by it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;

use goblin::container::Ctx;
use goblin::elf::{Elf, ProgramHeader};
use memmap2::Mmap;

/// The build id of the file at `path`; `None` if it is no ELF file or has none.
pub(crate) fn build_id(path: &[u8]) -> Option<Vec<u8>> {
    let file = File::open(OsStr::from_bytes(path)).ok()?;
    // SAFETY: the map is only read. Somebody may shorten the file meanwhile, which would end this
    // process by SIGBUS: the same holds for every program that is executed from a file.
    let map = unsafe { Mmap::map(&file) }.ok()?;
    if !map.starts_with(b"\x7fELF") {
        return None;
    }
    // Symbols and relocations take longer, and are not wanted.
    let header = Elf::parse_header(&map).ok()?;
    let context = Ctx::new(header.container().ok()?, header.endianness().ok()?);
    let (at, count) = (header.e_phoff as usize, header.e_phnum as usize);
    let mut elf = Elf::lazy_parse(header).ok()?;
    elf.program_headers = ProgramHeader::parse(&map, at, count, context).ok()?;
    let mut notes = elf.iter_note_headers(&map)?;
    notes.find_map(|note| {
        let note = note.ok()?;
        let wanted = note.name == "GNU" && note.n_type == goblin::elf::note::NT_GNU_BUILD_ID;
        wanted.then(|| note.desc.to_vec())
    })
}
