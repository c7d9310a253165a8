//! Calls that a task is to make, gathered first and then made all at once.
//!
//! Of a frozen task each kind notes its questions, and gives back a function that makes sense of the
//! answers; of one in the making it notes what is to be done:
//!
//! ```text
//! kinds ─note─▶ Asks ─Hand::answers─▶ Answers ─▶ the kinds' functions
//!                    ─Hand::do_all──▶ done, or the first failure
//! ```

use std::borrow::Cow;

use super::Hand;
use crate::error::{Error, Result};
use crate::os::PAGE;
use crate::os::batch::{CALL, RESULT};

/// A system call to be made.
#[derive(Debug)]
struct Ask {
    what: Cow<'static, str>,
    number: i64,
    arguments: [u64; 6],
    /// The argument that points to memory, and what is there before the call: whole words.
    memory: Option<(usize, Vec<u8>)>,
}

impl Ask {
    fn room(&self) -> u64 {
        self.memory.as_ref().map_or(0, |(_, bytes)| bytes.len() as u64)
    }
}

/// All that is to be asked of one task.
#[derive(Debug, Default)]
pub(crate) struct Asks(Vec<Ask>);

/// Which of the answers is meant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket(usize);

impl Asks {
    /// Notes a call whose result is the answer.
    pub(crate) fn value(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        number: i64,
        arguments: &[u64],
    ) -> Ticket {
        self.note(what.into(), number, arguments, None)
    }

    /// Notes a call that reads these bytes; the argument at position `at` is to point there.
    pub(crate) fn given(
        &mut self,
        what: impl Into<Cow<'static, str>>,
        number: i64,
        arguments: &[u64],
        (at, mut bytes): (usize, Vec<u8>),
    ) {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        self.note(what.into(), number, arguments, Some((at, bytes)));
    }

    /// Notes a call that fills so many words; the argument at position `out` is to point there.
    pub(crate) fn words(
        &mut self,
        what: &'static str,
        number: i64,
        arguments: &[u64],
        (out, words): (usize, usize),
    ) -> Ticket {
        self.note(what.into(), number, arguments, Some((out, vec![0; 8 * words])))
    }

    fn note(
        &mut self,
        what: Cow<'static, str>,
        number: i64,
        given: &[u64],
        memory: Option<(usize, Vec<u8>)>,
    ) -> Ticket {
        let mut arguments = [0; 6];
        arguments[..given.len()].copy_from_slice(given);
        self.0.push(Ask { what, number, arguments, memory });
        Ticket(self.0.len() - 1)
    }
}

/// What came of the calls.
#[derive(Debug)]
pub(crate) struct Answers {
    asks: Vec<Ask>,
    /// Of each call its result, and its words of memory.
    told: Vec<(i64, Vec<u64>)>,
    tid: i32,
}

impl Answers {
    /// A call's result, `-errno` included.
    pub(crate) fn result(&self, ticket: Ticket) -> i64 {
        self.told[ticket.0].0
    }

    /// A call's result, which is an error if it is one.
    pub(crate) fn value(&self, ticket: Ticket) -> Result<u64> {
        match self.result(ticket) {
            code @ -4095..=-1 => {
                let error = std::io::Error::from_raw_os_error(-code as i32);
                let what = &self.asks[ticket.0].what;
                Err(Error::os(format!("cannot {what} in task {}", self.tid), error))
            }
            value => Ok(value as u64),
        }
    }

    /// The words that a call filled.
    pub(crate) fn words<const N: usize>(&self, ticket: Ticket) -> Result<[u64; N]> {
        self.value(ticket)?;
        let mut words = [0; N];
        words.copy_from_slice(&self.told[ticket.0].1);
        Ok(words)
    }
}

impl Hand<'_> {
    /// Has the task make all these calls, which must succeed.
    pub(crate) fn do_all(&self, asks: Asks) -> Result<()> {
        let answers = self.answers(asks)?;
        (0..answers.told.len()).try_for_each(|nth| answers.value(Ticket(nth)).map(drop))
    }

    /// Has the task make all these calls.
    pub(crate) fn answers(&self, Asks(asks): Asks) -> Result<Answers> {
        let mut told = Vec::with_capacity(asks.len());
        let mut rest = asks.as_slice();
        while !rest.is_empty() {
            // As many as find room in scratch memory: the table first, then what is filled.
            let mut room = PAGE;
            let fitting = rest.iter().take_while(|ask| {
                let needed = CALL + ask.room();
                let fits = needed <= room;
                room = room.saturating_sub(needed);
                fits
            });
            let (now, later) = rest.split_at(fitting.count().max(1));
            self.answer(now, &mut told)?;
            rest = later;
        }
        Ok(Answers { asks, told, tid: self.remote.tid() })
    }

    fn answer(&self, asks: &[Ask], told: &mut Vec<(i64, Vec<u64>)>) -> Result<()> {
        let table = CALL * asks.len() as u64;
        let mut bytes = Vec::with_capacity(PAGE as usize);
        let mut out = self.scratch.address + table;
        for ask in asks {
            let mut arguments = ask.arguments;
            if let Some((position, _)) = ask.memory {
                arguments[position] = out;
                out += ask.room();
            }
            let words = [&[ask.number as u64][..], &arguments, &[0]].concat();
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes.extend(asks.iter().filter_map(|ask| ask.memory.as_ref()).flat_map(|(_, it)| it));
        self.memory.write_all(self.scratch.address, &bytes)?;
        self.remote.call_all(self.scratch.address, asks.len() as u64)?;
        self.memory.read_exact(self.scratch.address, &mut bytes)?;
        let (words, _) = bytes.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (calls, mut filled) = words.split_at(table as usize / 8);
        for (call, ask) in calls.chunks_exact(CALL as usize / 8).zip(asks) {
            let (own, others) = filled.split_at(ask.room() as usize / 8);
            told.push((call[RESULT as usize / 8] as i64, own.to_vec()));
            filled = others;
        }
        Ok(())
    }
}
