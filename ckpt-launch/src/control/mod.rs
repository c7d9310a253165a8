//! How `ckpt` speaks to a running job's supervisor.
//!
//! In the checkpoint directory a job that runs has
//!
//! - `.ckpt-<jobid>.lock`, on which its supervisor holds an exclusive flock(2); its text, one JSON
//!   object ([`place::Record`]), says who that is and where the socket is;
//! - `.ckpt-<jobid>.sock`, a unix stream socket, mode 0600. Where the file system has no sockets it
//!   is in `$XDG_RUNTIME_DIR` or in `/tmp/ckpt-<uid>/`, and the record points to it;
//! - `.ckpt-<jobid>.hold`, an empty file on which processes of the job hold shared flocks while they
//!   want no checkpoint, and the supervisor an exclusive one while it takes one ([`hold`]);
//! - `.ckpt-<jobid>.env`, if it was restored: the restorer's environment ([`environment`]).
//!
//! A process of the job may have any of these open when an image is taken: what it needs is there
//! again before it is rebuilt.
//!
//! # Protocol, version 1
//!
//! JSON objects, one a line, in UTF-8. Only root and the supervisor's own user (`SO_PEERCRED`) are
//! served. A connection carries one request:
//!
//! ```text
//! supervisor: {"event":"hello","version":1,"job":"…","name":"…","incarnation":"…","generation":3}
//! client:     {"version":1,"request":"checkpoint"}          or "status" or "kill"
//! supervisor: {"event":"frozen",…} {"event":"bytes","done":…,"total":…} {"event":"warning",…} …
//! supervisor: {"event":"checkpoint",…} or {"event":"failed","code":74,"kind":"Io","message":"…"}
//! ```
//!
//! The last event of a reply is `checkpoint`, `status`, `killed` or `failed`; then the supervisor
//! hangs up. What a reader doesn't know, event or field, it skips.
//!
//! A client that is itself part of the job would be frozen with an open connection to a process
//! outside the job. So a request may say `"reply":"fd"` and carry the write end of a pipe
//! (`SCM_RIGHTS`); the client then closes the connection, which is what the supervisor waits for
//! before it begins, and reads the reply from its pipe, all of which is inside the job. If the
//! client wakes up in a restored job, the record's `incarnation` has changed, and by that it knows
//! that the image is durable: it came out of it.

pub mod client;
pub mod environment;
pub mod hold;
pub mod place;
pub mod protocol;
pub mod server;
