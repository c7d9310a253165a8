//! One coordinator for several launchers, on one host or several: it makes one generation of all
//! their jobs, lists them, kills them.
//!
//! ```text
//! launcher ─peer──┐                       ┌─ serve   the coordinator's loop
//! launcher ─peer──┼─ channel ═══ channel ─┤
//! command ─client─┘   (secret)            └─ round   two phases over all peers
//! ```
//!
//! # Who may speak
//!
//! A local peer comes through a unix socket and is known by its credentials; any other comes through
//! TCP and must know the secret of a file that only its user can read ([`secret`]). Over TCP each
//! line carries a keyed checksum ([`channel`]), so that nobody in between can put words in.
//!
//! # What is said
//!
//! JSON objects, one a line ([`wire`]). A launcher joins, and is then asked; a command asks, and is
//! answered. What a reader doesn't know, it skips.
//!
//! # A generation
//!
//! The coordinator sends `checkpoint`. Each peer freezes its job and says `reached frozen`; when all
//! have, they hear `go` and capture; when all have captured, they let their jobs go and finish their
//! images; when all images are durable, they are published. A peer that fails or vanishes before
//! that makes all of them give up: no job is harmed, no image is left.
//!
//! A coordinator that dies takes nothing along: the jobs run on, a checkpoint on its way is given
//! up, and the launchers look for a new coordinator at the same address.

pub mod channel;
pub mod client;
pub mod peer;
pub mod place;
pub mod round;
pub mod secret;
pub mod serve;
pub mod start;
pub mod wire;
