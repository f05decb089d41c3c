//! The ring of receive buffers lent to the kernel (`IORING_REGISTER_PBUF_RING`, see
//! `io_uring_register_buf_ring(3)`): the kernel takes the next buffer when bytes have come.
//!
//! Invariants:
//! 1. A lent buffer is a raw pointer in `lent`, owned by nobody else, until the kernel reports its number.
//! 2. The tail is published after the entry is written.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

pub(super) struct Provided {
    entries: NonNull<BufRingEntry>,
    /// A power of two.
    count: u16,
    tail: u16,
    /// By buffer number.
    lent: Vec<Option<NonNull<[u8]>>>,
    /// Numbers not in use.
    free: Vec<u16>,
}

impl Provided {
    /// Room for `count` buffers, a power of two.
    pub(super) fn new(count: u16) -> io::Result<Self> {
        assert!(count.is_power_of_two(), "the kernel wants a power of two");
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory of ours.
        let memory =
            unsafe { mmap_anonymous(std::ptr::null_mut(), Self::bytes(count), protection, flags) }?;
        let entries = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let lent = vec![None; count.into()];
        Ok(Self { entries, count, tail: 0, lent, free: (0..count).rev().collect() })
    }

    fn bytes(count: u16) -> usize {
        usize::from(count) * size_of::<BufRingEntry>()
    }

    pub(super) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    pub(super) fn count(&self) -> u16 {
        self.count
    }

    /// Buffers with the kernel now.
    pub(super) fn available(&self) -> usize {
        self.lent.len() - self.free.len()
    }

    /// Gives the kernel a buffer; back if there is no room.
    pub(super) fn lend(&mut self, buffer: Box<[u8]>) -> Result<(), Box<[u8]>> {
        let Some(number) = self.free.pop() else { return Err(buffer) };
        let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
        let buffer = NonNull::from(Box::leak(buffer));
        self.lent[usize::from(number)] = Some(buffer);
        let place = usize::from(self.tail & (self.count - 1));
        // SAFETY: `place` is below `count`, the length of the mapping in entries.
        let entry = unsafe { self.entries.add(place) };
        // SAFETY: the mapping is valid, aligned and zeroed; the kernel reads an entry only once the tail has passed it.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(buffer.cast::<u8>().as_ptr() as u64);
        entry.set_len(length);
        entry.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Shows the kernel what was lent since.
    pub(super) fn publish(&self) {
        // SAFETY: the first entry is initialised memory of the mapping, and the address of the ring's first entry.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail is two aligned bytes of the mapping that only we write and the kernel reads.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    /// Takes back the buffer that the kernel reported as used; `None` for a number that was not lent.
    pub(super) fn take(&mut self, number: u16) -> Option<Box<[u8]>> {
        let buffer = self.lent.get_mut(usize::from(number))?.take()?;
        self.free.push(number);
        // SAFETY: it came from `Box::leak` in `lend`, is taken out of the table so that nobody takes it twice, and the
        // kernel is done with it, for it has reported it.
        Some(unsafe { Box::from_raw(buffer.as_ptr()) })
    }

    /// Frees everything. To be called when the kernel can no longer reach the ring; otherwise the memory must stay.
    pub(super) fn free(&mut self) {
        for number in 0..self.count {
            drop(self.take(number));
        }
        // SAFETY: the mapping is ours, has this length, and is not used again: the value is being dropped.
        let _unmapped = unsafe { munmap(self.entries.as_ptr().cast(), Self::bytes(self.count)) };
    }
}
