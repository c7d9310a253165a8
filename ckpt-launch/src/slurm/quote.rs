//! Words as they must be written so that bash, or sbatch in a `#SBATCH` line, reads just them.
//!
//! Both give text without control characters: a script stays readable, keeps its lines, and passes
//! sbatch, which refuses scripts with carriage returns.

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

/// A word of bash that stands for just these bytes, as plain as it can be.
pub fn shell(word: &OsStr) -> String {
    match word.to_str() {
        Some(text) if !text.is_empty() && text.bytes().all(is_plain) => text.to_owned(),
        Some(text) if !text.contains(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => escaped(word.as_bytes()),
    }
}

/// Whether the shell sees nothing in it, wherever it stands but for the line's first word.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&byte)
}

/// Bash's `$'…'`. There `\x` takes two digits at most, so that digits after it stay what they are.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::from("$'");
    let hex = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            // Writing to a string does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\'' | '\\' => text.extend(['\\', char]),
                char if char.is_control() => {
                    hex(&mut text, char.encode_utf8(&mut [0; 4]).as_bytes());
                }
                char => text.push(char),
            }
        }
        hex(&mut text, chunk.invalid());
    }
    text.push('\'');
    text
}

/// An option's value in a `#SBATCH` line, where `#` begins a comment and blanks end a word. Nothing
/// if no quoting could help: a line of its own is all that there is for an option.
pub fn sbatch(value: &str) -> Option<String> {
    if value.contains(char::is_control) {
        return None;
    }
    if !value.is_empty() && !value.contains([' ', '"', '\'', '\\', '#']) {
        return Some(value.to_owned());
    }
    Some(format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\"")))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// What bash makes of these words, after one that it takes as a command.
    fn bash_reads(words: &[OsString]) -> Vec<OsString> {
        let line: Vec<_> = words.iter().map(|word| shell(word)).collect();
        let script = format!("set -u\nprintf '%s\\0' x {}\n", line.join(" "));
        let out = Command::new("bash").args(["--norc", "-c", &script]).output().expect("bash runs");
        assert!(out.status.success() && out.stderr.is_empty(), "{script}\n{out:?}");
        let mut read = out.stdout.split(|byte| *byte == 0).map(|word| word.to_vec());
        assert_eq!(read.next(), Some(b"x".to_vec()));
        let mut read: Vec<_> = read.map(OsString::from_vec).collect();
        assert_eq!(read.pop(), Some(OsString::new()), "the last zero byte");
        read
    }

    #[test]
    fn as_plain_as_can_be() {
        for (word, written) in [
            ("./payload.sh", "./payload.sh"),
            ("--steps=10", "--steps=10"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("~", "'~'"),
            ("$HOME", "'$HOME'"),
            ("größe", "'größe'"),
            ("a\nb'\\", r"$'a\nb\'\\'"),
            ("\r\x1b[0m", r"$'\x0d\x1b[0m'"),
        ] {
            assert_eq!(shell(word.as_ref()), written);
        }
        assert_eq!(shell(OsStr::from_bytes(b"\xff1")), r"$'\xff1'");
    }

    /// As Slurm 22.05 reads them: the names of jobs came out right.
    #[test]
    fn for_sbatch() {
        for (value, written) in [
            ("a:b@c", Some("a:b@c")),
            ("a b", Some("\"a b\"")),
            ("a # b", Some("\"a # b\"")),
            ("a#b", Some("\"a#b\"")),
            ("a\"b", Some(r#""a\"b""#)),
            ("a\\b", Some(r#""a\\b""#)),
            ("a'b", Some("\"a'b\"")),
            ("", Some("\"\"")),
            ("a\nb", None),
        ] {
            assert_eq!(sbatch(value).as_deref(), written, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn bash_reads_the_words(
            odd in "[ -~\n\t\r]{0,12}",
            text in ".{0,12}",
            bytes in prop::collection::vec(1..=u8::MAX, 0..12),
        ) {
            let words = [odd.into(), text.replace('\0', "").into(), OsString::from_vec(bytes)];
            for word in &words {
                prop_assert!(!shell(word).contains(char::is_control));
            }
            prop_assert_eq!(bash_reads(&words), words);
        }
    }
}
