//! The secret that peers on other hosts prove to know: 32 random bytes in a file that only its
//! owner can read. Whoever comes first makes it.
//!
//! ```text
//! coordinator: {"nonce":S}
//! peer:        {"nonce":C,"proof":HMAC(secret, "peer" S C)}
//! coordinator: {"proof":HMAC(secret, "coordinator" S C)}
//! ```
//!
//! Either side hangs up at a wrong proof. The keys for the lines that follow are made in the same
//! way (HMAC-SHA256, RFC 2104), one for each direction.

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ckpt_core::{Error, ErrorKind, Result};
use hmac::{Hmac, KeyInit, Mac};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::Sha256;

/// A checksum under a key.
pub type Tag = [u8; 32];

/// What peers share.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Tag);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// The secret in `path`, made (mode 0600, in a folder of mode 0700) if there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Permission`] if others can read it or it is another user's; what open(2) says.
    pub fn of(path: &Path) -> Result<Self> {
        match Self::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => return other,
        }
        let failed = |e| Error::os(format!("cannot make the secret {}", path.display()), e);
        if let Some(folder) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)
                .map_err(failed)?;
        }
        let spare = path.with_extension(format!("new-{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&spare);
        let text = hex(&random());
        let made = file.and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            // Whoever links first wins; the others read what that one made.
            std::fs::hard_link(&spare, path).or_else(|e| match e.kind() {
                std::io::ErrorKind::AlreadyExists => Ok(()),
                _ => std::fs::rename(&spare, path),
            })
        });
        let _ = std::fs::remove_file(&spare);
        made.map_err(failed)?;
        Self::read(path)
    }

    fn read(path: &Path) -> Result<Self> {
        let failed = |e| Error::os(format!("cannot read the secret {}", path.display()), e);
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let own = rustix::process::geteuid().as_raw();
        if !meta.is_file() || meta.uid() != own || meta.mode() & 0o077 != 0 {
            let what = format!("the secret {} is not yours alone", path.display());
            return Err(Error::new(ErrorKind::Permission, what).help(format!(
                "chmod 600 {0}, or remove it and have a new one made",
                path.display()
            )));
        }
        let mut text = String::new();
        file.take(256).read_to_string(&mut text).map_err(failed)?;
        unhex(text.trim()).map(Self).ok_or_else(|| {
            let what = format!("the secret {} is not 64 hex digits", path.display());
            Error::new(ErrorKind::Damaged, what).help("remove it and have a new one made")
        })
    }

    /// What one side shows the other.
    pub fn proof(&self, of: &str, nonces: (&str, &str)) -> String {
        hex(&self.tag(&[of.as_bytes(), nonces.0.as_bytes(), nonces.1.as_bytes()]))
    }

    /// Whether a proof is right, in a time that does not tell how wrong it is.
    pub fn proves(&self, of: &str, nonces: (&str, &str), proof: &str) -> bool {
        let Some(proof) = unhex(proof) else { return false };
        let parts = [of.as_bytes(), nonces.0.as_bytes(), nonces.1.as_bytes()];
        mac(&self.0, &parts).is_some_and(|mac| mac.verify_slice(&proof).is_ok())
    }

    /// The key of one direction of a channel.
    pub fn key(&self, of: &str, nonces: (&str, &str)) -> Tag {
        self.tag(&[b"key", of.as_bytes(), nonces.0.as_bytes(), nonces.1.as_bytes()])
    }

    fn tag(&self, parts: &[&[u8]]) -> Tag {
        tag(&self.0, parts)
    }
}

fn mac(key: &Tag, parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    // HMAC takes keys of any length; there is no other error.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    Some(mac)
}

/// The checksum of some parts under a key.
pub fn tag(key: &Tag, parts: &[&[u8]]) -> Tag {
    mac(key, parts).map_or([0; 32], |mac| mac.finalize().into_bytes().into())
}

/// 32 random bytes.
pub fn random() -> Tag {
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        // It fails only on kernels that have no such call.
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty()).unwrap_or_default();
    }
    bytes
}

/// Lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |four: u8| char::from(b"0123456789abcdef"[usize::from(four & 15)]);
    bytes.iter().flat_map(|&byte| [digit(byte >> 4), digit(byte)]).collect()
}

fn unhex(text: &str) -> Option<Tag> {
    let mut bytes = [0u8; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// Where the secret is: the flag, else `$CKPT_SECRET_FILE`, else `~/.ckpt/secret`, which on a cluster
/// is the same on all nodes.
pub fn path(flag: Option<&Path>) -> PathBuf {
    let named = flag.map(Path::to_path_buf);
    let named = named.or_else(|| std::env::var_os("CKPT_SECRET_FILE").map(PathBuf::from));
    named.unwrap_or_else(|| {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
        home.map_or_else(|| PathBuf::from("."), PathBuf::from).join(".ckpt/secret")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn it_is_made_once_and_kept_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/secret");
        let first = Secret::of(&path).unwrap();
        assert_eq!(Secret::of(&path).unwrap(), first);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(Secret::of(&path).unwrap_err().kind(), ErrorKind::Permission);
    }

    #[test]
    fn proofs() {
        let secret = Secret(random());
        let nonces = ("a", "b");
        let proof = secret.proof("peer", nonces);
        assert!(secret.proves("peer", nonces, &proof));
        assert!(!secret.proves("coordinator", nonces, &proof));
        assert!(!secret.proves("peer", ("ab", ""), &proof));
        assert!(!Secret(random()).proves("peer", nonces, &proof));
        assert!(!secret.proves("peer", nonces, "x"));
    }
}
