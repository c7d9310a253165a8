//! The vDSO (vdso(7)): code that the kernel maps into every process. A program may have cached
//! its entry points, so they must work at the same addresses after a restart, under whatever
//! kernel.

use goblin::elf::Elf;

use crate::error::{Error, ErrorKind, Result};

/// Exported functions of a vDSO image: name and offset, one of each alias.
fn entries(image: &[u8]) -> Result<Vec<(String, u64)>> {
    let damaged =
        |e| Error::new(ErrorKind::Unsupported, "cannot understand the vDSO's ELF tables").source(e);
    let elf = Elf::parse(image).map_err(damaged)?;
    let base = elf.program_headers.iter().find(|h| h.p_offset == 0).map_or(0, |h| h.p_vaddr);
    let found = elf.dynsyms.iter().filter(|s| s.st_value != 0 && s.is_function());
    Ok(found
        .filter_map(|s| {
            let name = elf.dynstrtab.get_at(s.st_name)?;
            Some((name.to_owned(), s.st_value.checked_sub(base)?))
        })
        .filter(|(name, _)| name.starts_with("__vdso_"))
        .collect())
}

/// The system call behind a vDSO function.
fn system_call(name: &str) -> Option<i64> {
    Some(match name {
        "__vdso_clock_gettime" => libc::SYS_clock_gettime,
        "__vdso_gettimeofday" => libc::SYS_gettimeofday,
        "__vdso_time" => libc::SYS_time,
        "__vdso_clock_getres" => libc::SYS_clock_getres,
        "__vdso_getcpu" => libc::SYS_getcpu,
        "__vdso_getrandom" => libc::SYS_getrandom,
        _ => return None,
    })
}

/// `old` with each entry point turned into a jump to the function of the same name in `new`, which
/// lies at `new_base`; or into the plain system call, where the new vDSO has no such function.
pub(crate) fn patched(old: &[u8], new: &[u8], new_base: u64) -> Result<Vec<u8>> {
    let targets = entries(new)?;
    let mut image = old.to_vec();
    for (name, offset) in entries(old)? {
        let code = match targets.iter().find(|(other, _)| *other == name) {
            Some((_, target)) => jump(new_base + target),
            None => match system_call(&name) {
                Some(number) => plain_call(number),
                None => continue,
            },
        };
        let at = offset as usize;
        match at.checked_add(code.len()).and_then(|end| image.get_mut(at..end)) {
            Some(place) => place.copy_from_slice(&code),
            None => {
                let what = format!("the image's vDSO has no room at its entry {name}");
                return Err(Error::new(ErrorKind::Damaged, what));
            }
        }
    }
    Ok(image)
}

/// `movabs rax, target; jmp rax`.
fn jump(target: u64) -> Vec<u8> {
    let mut code = vec![0x48, 0xb8];
    code.extend(target.to_le_bytes());
    code.extend([0xff, 0xe0]);
    code
}

/// `mov eax, number; syscall; ret`.
fn plain_call(number: i64) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend((number as i32).to_le_bytes());
    code.extend([0x0f, 0x05, 0xc3]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::{maps, mem};

    #[test]
    fn our_own_vdso_is_understood_and_patched() {
        let pid = std::process::id() as i32;
        let maps = maps::read(pid).unwrap();
        let vdso = maps.iter().find(|map| map.kind == maps::Kind::Vdso).unwrap();
        let mut image = vec![0; (vdso.end - vdso.start) as usize];
        mem::Memory::open(pid).unwrap().read_exact(vdso.start, &mut image).unwrap();
        let found = entries(&image).unwrap();
        let (_, offset) = found.iter().find(|(n, _)| n == "__vdso_clock_gettime").unwrap();
        let patched = patched(&image, &image, 0x1234_5000).unwrap();
        let at = *offset as usize;
        assert_eq!(patched[at..at + 12], jump(0x1234_5000 + offset)[..]);
    }
}
