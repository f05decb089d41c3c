//! Received bytes, and the per-core pool that their buffers and the send queues' buffers come from.
//!
//! Invariants:
//! 1. A buffer is owned: by a [`Chunk`], by the pool, or (io_uring) by the kernel's buffer ring. Never by two.
//! 2. The pool is last in, first out, so a busy core works in cache-warm memory.
//! 3. An idle connection holds no buffer.

use std::cell::RefCell;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use crate::limits::{SEND_BUFFER_BYTES_KEPT_MAX, SEND_BUFFERS_KEPT_MAX};

/// Bytes received from a connection. Reading from the front is [`advance`](Self::advance); dropping it
/// gives the memory back to the core's pool.
pub struct Chunk {
    bytes: Box<[u8]>,
    start: u32,
    end: u32,
    /// The pool is the core's: not `Send`.
    core: PhantomData<*const ()>,
}

impl Chunk {
    /// No bytes, which as the result of a receive means end of file. Allocates nothing.
    pub fn empty() -> Self {
        Self { bytes: Box::default(), start: 0, end: 0, core: PhantomData }
    }

    /// A copy of `bytes` in memory of just that size.
    pub fn copy_of(bytes: &[u8]) -> Self {
        Self::filled(bytes.into(), bytes.len())
    }

    /// The first `length` bytes of a buffer.
    pub(crate) fn filled(bytes: Box<[u8]>, length: usize) -> Self {
        debug_assert!(length <= bytes.len(), "more received than the buffer holds");
        let end = u32::try_from(length).expect("a receive is far below 4 GiB");
        Self { bytes, start: 0, end, core: PhantomData }
    }

    /// The bytes in view, to be worked on in place.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start as usize..self.end as usize]
    }

    /// Puts as many of `bytes` as the buffer holds in place of what is in view; how many that were.
    pub(crate) fn replace(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.bytes.len());
        self.bytes[..count].copy_from_slice(&bytes[..count]);
        self.start = 0;
        self.end = u32::try_from(count).expect("a buffer is far below 4 GiB");
        count
    }

    /// Drops the first `count` bytes from view.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "advanced beyond the bytes received");
        self.start += u32::try_from(count).unwrap_or(u32::MAX);
    }
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start as usize..self.end as usize]
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes)", self.len())
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        give(std::mem::take(&mut self.bytes));
    }
}

/// The free buffers of one core.
struct Pool {
    receive: Vec<Box<[u8]>>,
    send: Vec<Vec<u8>>,
    /// Size of a receive buffer; zero off a core, where nothing is kept.
    receive_bytes: usize,
    receive_max: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool { receive: Vec::new(), send: Vec::new(), receive_bytes: 0, receive_max: 0 })
    };
}

/// Begins the pool of this core: at most `count` free buffers of `bytes` each are kept.
pub(crate) fn open(count: usize, bytes: usize) {
    POOL.with_borrow_mut(|pool| {
        pool.receive_bytes = bytes;
        pool.receive_max = count;
    });
}

/// Frees what the pool holds.
pub(crate) fn close() {
    let held = POOL.with_borrow_mut(|pool| {
        pool.receive_bytes = 0;
        (std::mem::take(&mut pool.receive), std::mem::take(&mut pool.send))
    });
    drop(held);
}

/// A receive buffer: the last one given back, or a new one.
pub(crate) fn take() -> Box<[u8]> {
    POOL.with_borrow_mut(|pool| {
        pool.receive.pop().unwrap_or_else(|| new_buffer(pool.receive_bytes))
    })
}

/// A free receive buffer, if there is one.
#[cfg(target_os = "linux")]
pub(crate) fn take_free() -> Option<Box<[u8]>> {
    POOL.with_borrow_mut(|pool| pool.receive.pop())
}

/// Takes a receive buffer back. Memory of another size, or beyond what the pool keeps, is freed.
pub(crate) fn give(buffer: Box<[u8]>) {
    if buffer.is_empty() {
        return;
    }
    // After the thread's own destructors have run there is no pool; then the buffer is simply freed.
    let _gone = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if buffer.len() == pool.receive_bytes && pool.receive.len() < pool.receive_max {
            pool.receive.push(buffer);
        }
    });
}

/// An empty vector for a send queue, with memory if some was given back.
pub(crate) fn take_send() -> Vec<u8> {
    POOL.with_borrow_mut(|pool| pool.send.pop()).unwrap_or_default()
}

/// Takes a send queue's memory back.
pub(crate) fn give_send(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 {
        return;
    }
    buffer.clear();
    POOL.with_borrow_mut(|pool| {
        let kept = pool.send.len() < SEND_BUFFERS_KEPT_MAX;
        if kept && buffer.capacity() <= SEND_BUFFER_BYTES_KEPT_MAX && pool.receive_bytes > 0 {
            pool.send.push(buffer);
        }
    });
}

fn new_buffer(bytes: usize) -> Box<[u8]> {
    vec![0; bytes].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_chunk_is_the_next_buffer() {
        open(2, 4096);
        let chunk = Chunk::filled(take(), 10);
        let address = chunk.as_ptr();
        drop(chunk);
        let again = take();
        assert_eq!(again.as_ptr(), address);
        close();
    }

    #[test]
    fn keeps_no_more_than_its_maximum_and_only_its_size() {
        open(2, 64);
        (0..3).map(|_| new_buffer(64)).collect::<Vec<_>>().into_iter().for_each(give);
        give(new_buffer(65));
        assert_eq!(POOL.with_borrow(|pool| pool.receive.len()), 2);
        close();
        assert_eq!(POOL.with_borrow(|pool| pool.receive.len()), 0);
    }

    #[test]
    fn advances_to_its_end() {
        let mut chunk = Chunk::copy_of(b"abc");
        chunk.advance(2);
        assert_eq!(&*chunk, b"c");
        chunk.advance(1);
        assert!(chunk.is_empty());
    }
}
