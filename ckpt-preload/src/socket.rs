//! The connection to the supervisor.

use core::mem::MaybeUninit;

use crate::place::{self, DIR, Record};
use crate::sys::{EACCES, EINVAL, Fd, O_CLOEXEC, Result, syscall};
use crate::text::{Put, Text};

const SOCKET: usize = 41;
const CONNECT: usize = 42;
const SENDMSG: usize = 46;
const GETSOCKOPT: usize = 55;
const GETEUID: usize = 107;

const AF_UNIX: usize = 1;
const SOCK_STREAM_NONBLOCK: usize = 0o4_001;
const SOL_SOCKET: usize = 1;
const SCM_RIGHTS: i32 = 1;
const SO_PEERCRED: usize = 17;
const MSG_NOSIGNAL: usize = 0x4000;

/// Connects to the supervisor; `EAGAIN` if too many are about to.
pub(crate) fn connect(record: &Record) -> Result<Fd> {
    // SAFETY: integers only.
    let socket = unsafe { syscall(SOCKET, [AF_UNIX, SOCK_STREAM_NONBLOCK | O_CLOEXEC, 0, 0, 0]) };
    let socket = Fd::from_call(socket?);
    // struct sockaddr_un: the family, then the path.
    let mut address = Text::<110>::new();
    address.add(&(AF_UNIX as u16).to_ne_bytes());
    // The directory's descriptor leads to a socket whose name is longer than an address.
    let dir = Fd::directory(&DIR)?;
    if record.socket.is_cut() {
        address.add(b"/proc/self/fd/");
        address.add_number(dir.number() as u32);
        address.push(b'/');
        address.add(place::name(b".sock").bytes());
    } else {
        address.add(record.socket.bytes());
    }
    if address.is_cut() {
        return Err(EINVAL);
    }
    let (at, length) = (address.bytes().as_ptr() as usize, address.bytes().len());
    // SAFETY: the kernel reads `length` bytes of the address.
    unsafe { syscall(CONNECT, [socket.number() as usize, at, length, 0, 0]) }?;
    if is_a_strangers(&socket)? { Err(EACCES) } else { Ok(socket) }
}

/// Whether it is neither root's nor our own user's.
fn is_a_strangers(socket: &Fd) -> Result<bool> {
    // struct ucred: process, user, group.
    let mut peer = [MaybeUninit::<u32>::uninit(); 3];
    let mut length = size_of_val(&peer) as u32;
    let (at, length) = (peer.as_mut_ptr() as usize, &raw mut length as usize);
    let number = socket.number() as usize;
    // SAFETY: the kernel writes at most a struct ucred, for which there is room, and the length.
    unsafe { syscall(GETSOCKOPT, [number, SOL_SOCKET, SO_PEERCRED, at, length]) }?;
    let [_, user, _] = peer;
    // SAFETY: for a connected unix socket the call fills in all of it.
    let user = unsafe { user.assume_init() } as usize;
    // SAFETY: it has no arguments.
    let own = unsafe { syscall(GETEUID, [0; 5]) }?;
    Ok(user != own && user != 0 && own != 0)
}

/// struct msghdr.
#[repr(C)]
struct Message {
    name: usize,
    name_length: u32,
    parts: usize,
    part_count: usize,
    control: usize,
    control_length: usize,
    flags: i32,
}

/// A struct cmsghdr with one descriptor.
#[repr(C, align(8))]
struct Control {
    length: usize,
    level: i32,
    kind: i32,
    fd: i32,
}

/// Sends a line and a descriptor.
pub(crate) fn send(socket: &Fd, line: &[u8], fd: &Fd) -> Result<()> {
    let control = Control {
        length: size_of::<usize>() + 3 * size_of::<i32>(),
        level: SOL_SOCKET as i32,
        kind: SCM_RIGHTS,
        fd: fd.number(),
    };
    // struct iovec.
    let part = [line.as_ptr() as usize, line.len()];
    let message = Message {
        name: 0,
        name_length: 0,
        parts: &raw const part as usize,
        part_count: 1,
        control: &raw const control as usize,
        control_length: size_of::<Control>(),
        flags: 0,
    };
    let arguments = [socket.number() as usize, &raw const message as usize, MSG_NOSIGNAL, 0, 0];
    // SAFETY: the message and what it points to live until the end of the call and are only read.
    // A line of some fifty bytes goes as a whole or not at all.
    unsafe { syscall(SENDMSG, arguments) }.map(drop)
}
