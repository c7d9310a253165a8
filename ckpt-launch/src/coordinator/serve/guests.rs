//! Whoever is connected to the coordinator: a stranger until it has shown who it is.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::coordinator::channel::{Channel, End, Stream};
use crate::coordinator::secret::{self, Secret};
use crate::coordinator::wire::{Greeting, Proof, Up, VERSION};

/// A connection.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) channel: Channel,
    /// The nonce of its greeting, as long as it has proved nothing.
    unknown: Option<String>,
    /// It cannot be reached any more.
    pub(super) hung_up: bool,
    /// It has not read all that it was sent; see [`super::events::Events::watch`].
    pub(super) slow: bool,
}

/// What came of listening to it.
pub(super) struct Heard {
    pub(super) words: Vec<Up>,
    pub(super) gone: bool,
}

impl Guest {
    /// Somebody at the TCP port.
    pub(super) fn far(stream: TcpStream) -> Option<Self> {
        let channel = Channel::new(Stream::Tcp(stream)).ok()?;
        Self::greeted(channel, Some(secret::hex(&secret::random())))
    }

    /// Somebody at the unix socket: our user and root are welcome, others are shown the door.
    pub(super) fn near(stream: UnixStream) -> Option<Self> {
        let uid = getsockopt(&stream, PeerCredentials).ok()?.uid();
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            tracing::warn!(uid, "refused a stranger");
            return None;
        }
        Self::greeted(Channel::new(Stream::Unix(stream)).ok()?, None)
    }

    fn greeted(mut channel: Channel, nonce: Option<String>) -> Option<Self> {
        let greeting = Greeting { ckpt: VERSION, nonce: nonce.clone().unwrap_or_default() };
        channel.send(&greeting).ok()?;
        Some(Self { channel, unknown: nonce, hung_up: false, slow: false })
    }

    /// Whether it has shown who it is.
    pub(super) fn is_known(&self) -> bool {
        self.unknown.is_none()
    }

    /// Takes what it has said.
    pub(super) fn hear(&mut self, secret: &Secret) -> Heard {
        let flushed = self.channel.flush();
        let filled = self.channel.fill();
        let mut heard =
            Heard { words: Vec::new(), gone: self.hung_up || flushed.is_err() || filled.is_err() };
        if let Some(nonce) = self.unknown.take() {
            match self.channel.message::<Proof>() {
                Ok(None) => self.unknown = Some(nonce),
                Ok(Some(proof)) if self.welcome(secret, &nonce, &proof) => {}
                _ => {
                    tracing::warn!("refused a stranger");
                    return Heard { words: Vec::new(), gone: true };
                }
            }
            if self.unknown.is_some() {
                return heard;
            }
        }
        loop {
            match self.channel.message() {
                Ok(Some(word)) => heard.words.push(word),
                Ok(None) => return heard,
                Err(error) => {
                    tracing::warn!(%error, "a guest makes no sense");
                    heard.gone = true;
                    return heard;
                }
            }
        }
    }

    /// Checks its proof, and shows ours.
    fn welcome(&mut self, secret: &Secret, nonce: &str, proof: &Proof) -> bool {
        let nonces = (nonce, proof.nonce.as_str());
        if !secret.proves("peer", nonces, &proof.proof) {
            return false;
        }
        let ours = Proof { nonce: String::new(), proof: secret.proof("coordinator", nonces) };
        let sent = self.channel.send(&ours).is_ok();
        self.channel.seal(secret, nonces, End::Coordinator);
        sent
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Best effort: what was said last shall be heard.
        let _ = self.channel.flush();
    }
}
