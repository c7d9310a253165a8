//! Pages of a file on their way to the disk (sync_file_range(2)). That they are there says nothing of the
//! file's metadata: only fsync(2) makes a file durable.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// Has the kernel begin to write what is dirty of these bytes.
pub(crate) fn begin(file: &File, bytes: Range<u64>) -> io::Result<()> {
    sync_file_range(file, bytes, libc::SYNC_FILE_RANGE_WRITE)
}

/// Waits until what was begun of these bytes is written. An error that is told here fsync(2) does not tell
/// again.
pub(crate) fn wait(file: &File, bytes: Range<u64>) -> io::Result<()> {
    sync_file_range(file, bytes, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
}

fn sync_file_range(file: &File, bytes: Range<u64>, flags: libc::c_uint) -> io::Result<()> {
    let (start, length) = (bytes.start.cast_signed(), (bytes.end - bytes.start).cast_signed());
    // SAFETY: four numbers; the descriptor is open as long as it is borrowed.
    match unsafe { libc::sync_file_range(file.as_raw_fd(), start, length, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
