//! A task's waker without memory: core, slot and generation packed into the one data word, so that
//! cloning and dropping do nothing and a waker may outlive its task and its core.

use std::ptr;
use std::task::{RawWaker, RawWakerVTable, Waker};

use crate::executor;

const _: () = assert!(size_of::<usize>() == 8, "a packed task needs a 64-bit word");

static VTABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake, |_| ());

/// A waker whose wake calls [`executor::wake_packed`] with `packed`, on whatever thread.
pub(crate) fn waker(packed: u64) -> Waker {
    // SAFETY: the vtable's functions never dereference the data word, keep no resource and are
    // thread-safe because `wake_packed` is.
    unsafe { Waker::from_raw(raw(packed)) }
}

#[expect(clippy::cast_possible_truncation, reason = "a word has 64 bits, see above")]
fn raw(packed: u64) -> RawWaker {
    RawWaker::new(ptr::without_provenance(packed as usize), &VTABLE)
}

fn clone(data: *const ()) -> RawWaker {
    RawWaker::new(data, &VTABLE)
}

fn wake(data: *const ()) {
    executor::wake_packed(data.addr() as u64);
}
