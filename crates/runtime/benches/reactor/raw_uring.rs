//! The floor for completions: multishot receives into a ring of lent buffers, each sent on from where it
//! was received, one system call per turn.

#![expect(unsafe_code, reason = "the raw loop is what the safe driver is measured against")]

use std::alloc::{Layout, alloc_zeroed};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use rustix::net::{SocketFlags, bind, connect, getsockname, listen, sockopt};

use crate::Outcome;
use crate::load::{port, tcp};

const BUFFERS: u16 = 4096;
const BUFFER_BYTES: usize = 2048;
/// User data of the listener; a send's is its buffer's number, marked.
const ACCEPT: u64 = u64::MAX;
const SEND: u64 = 1 << 40;
/// `IORING_ENTER_NO_IOWAIT`
const WAIT: u32 = EnterFlags::GETEVENTS.bits() | EnterFlags::NO_IOWAIT.bits();

struct Loop {
    io: IoUring,
    ring: *mut BufRingEntry,
    memory: *mut u8,
    tail: u16,
    sockets: Vec<OwnedFd>,
    server: SocketAddr,
}

pub(crate) fn run(server: SocketAddr, announce: impl Fn(u16)) -> Outcome<()> {
    let listener = tcp(SocketFlags::empty())?;
    bind(&listener, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    listen(&listener, 4096)?;
    let mut this = Loop::new(server)?;
    announce(port(getsockname(&listener)?)?);
    this.push(&opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).build().user_data(ACCEPT));
    let mut completions = Vec::with_capacity(8192);
    loop {
        let submit = u32::try_from(this.io.submission().len())?;
        // SAFETY: what is submitted points to buffers that live as long as the process.
        unsafe { this.io.submitter().enter::<u64>(submit, 1, WAIT, None) }?;
        completions.extend(this.io.completion());
        for completion in completions.drain(..) {
            this.handle(&completion)?;
        }
        this.publish();
    }
}

impl Loop {
    fn new(server: SocketAddr) -> Outcome<Self> {
        let io = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_cqsize(16384)
            .build(4096)?;
        let ring = zeroed(usize::from(BUFFERS) * size_of::<BufRingEntry>())?.cast();
        let memory = zeroed(usize::from(BUFFERS) * BUFFER_BYTES)?;
        // SAFETY: the memory is never freed.
        unsafe { io.submitter().register_buf_ring_with_flags(ring as u64, BUFFERS, 0, 0) }?;
        let mut this = Self { io, ring, memory, tail: 0, sockets: Vec::new(), server };
        (0..BUFFERS).for_each(|number| this.give(number));
        this.publish();
        Ok(this)
    }

    fn buffer(&self, number: u16) -> *mut u8 {
        // SAFETY: numbers are below BUFFERS, and the memory has that many buffers.
        unsafe { self.memory.add(usize::from(number) * BUFFER_BYTES) }
    }

    fn give(&mut self, number: u16) {
        let place = usize::from(self.tail % BUFFERS);
        // SAFETY: `place` is within the ring.
        let entry = unsafe { self.ring.add(place) };
        // SAFETY: the entry is zeroed or written memory that the kernel reads only below the tail.
        let entry = unsafe { &mut *entry };
        entry.set_addr(self.buffer(number) as u64);
        entry.set_len(u32::try_from(BUFFER_BYTES).unwrap_or(0));
        entry.set_bid(number);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&self) {
        // SAFETY: it is the ring's first entry.
        let tail = unsafe { BufRingEntry::tail(self.ring) };
        // SAFETY: aligned memory of the ring that only we write.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }.store(self.tail, Ordering::Release);
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: entries point to memory that lives as long as the process.
        while unsafe { self.io.submission().push(entry) }.is_err() {
            self.io.submit().expect("the submission queue can be emptied");
        }
    }

    fn receive(&mut self, index: usize) {
        let entry = opcode::RecvMulti::new(Fd(self.sockets[index].as_raw_fd()), 0).build();
        self.push(&entry.user_data(index as u64));
    }

    fn handle(&mut self, completion: &cqueue::Entry) -> Outcome<()> {
        match completion.user_data() {
            ACCEPT => {
                // SAFETY: an accept's result is a new descriptor.
                let client = unsafe { OwnedFd::from_raw_fd(completion.result()) };
                let upstream = tcp(SocketFlags::empty())?;
                connect(&upstream, &self.server)?;
                for socket in [client, upstream] {
                    sockopt::set_tcp_nodelay(&socket, true)?;
                    self.sockets.push(socket);
                    self.receive(self.sockets.len() - 1);
                }
            }
            data if data & SEND != 0 => self.give(u16::try_from(data & 0xffff)?),
            index => {
                let index = usize::try_from(index)?;
                if let Some(number) = cqueue::buffer_select(completion.flags()) {
                    let to = Fd(self.sockets[index ^ 1].as_raw_fd());
                    let length = u32::try_from(completion.result())?;
                    let entry = opcode::Send::new(to, self.buffer(number), length).build();
                    self.push(&entry.user_data(SEND | u64::from(number)));
                }
                if !cqueue::more(completion.flags()) && completion.result() != 0 {
                    self.receive(index);
                }
            }
        }
        Ok(())
    }
}

fn zeroed(bytes: usize) -> Outcome<*mut u8> {
    let layout = Layout::from_size_align(bytes, 4096)?;
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    if memory.is_null() { Err("out of memory".into()) } else { Ok(memory) }
}
