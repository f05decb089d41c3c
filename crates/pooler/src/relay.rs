//! Messages on their way between a client and the server it holds.
//!
//! `request` takes what clients send, `reply` what servers send, `pending` is the account between
//! the two. Bytes that need no change are copied once, from the receive buffer of one connection to
//! the send queue of the other, as long runs; only names of prepared statements
//! are changed, in `rewrite`.

pub(crate) mod pending;
pub(crate) mod reply;
pub(crate) mod request;
pub(crate) mod rewrite;

use std::ops::Range;

use runtime::tls::Transport;

/// Neighbouring bytes of one read that are to be sent on as they stand.
struct Run<'a> {
    bytes: &'a [u8],
    range: Range<usize>,
}

impl<'a> Run<'a> {
    fn new(bytes: &'a [u8]) -> Run<'a> {
        Run { bytes, range: 0..0 }
    }

    /// Adds a range; sends what was there before if it is not a neighbour.
    fn add(&mut self, range: Range<usize>, to: &Transport) {
        if self.range.end == range.start {
            self.range.end = range.end;
        } else {
            self.flush(to);
            self.range = range;
        }
    }

    fn len(&self) -> usize {
        self.range.len()
    }

    /// Sends what has been added. Must come before anything else is queued on `to`.
    fn flush(&mut self, to: &Transport) {
        if !self.range.is_empty() {
            to.queue(&self.bytes[self.range.clone()]);
        }
        self.range.start = self.range.end;
    }
}
