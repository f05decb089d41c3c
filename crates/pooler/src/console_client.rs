//! A client of the console: its connection, and what it can be seen and stopped by.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use runtime::buffer::Chunk;
use runtime::executor;
use runtime::tls::Transport;

use crate::command::{Command, Order};
use crate::console::snapshot::Connection;
use crate::console::{Console, Flow, Host};
use crate::limits::CONSOLE_MESSAGE_BYTES_MAX;
use crate::orders;
use crate::router::Router;

/// What a core keeps of it.
pub(crate) struct Administrator {
    /// Where it stands among its core's clients.
    index: u32,
    /// What it was told of its cancel key.
    key: Box<[u8]>,
    /// What SHOW CLIENTS prints of it.
    pub(crate) line: Connection,
    /// A command of its is under way.
    waits: Cell<bool>,
    ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Administrator {
    pub(crate) fn new(index: u32, key: &[u8], line: Connection) -> Rc<Administrator> {
        Rc::new(Administrator {
            index,
            key: key.into(),
            line,
            waits: Cell::new(false),
            ended: Cell::new(false),
            waker: RefCell::default(),
        })
    }

    /// Closes the connection.
    pub(crate) fn end(&self) {
        self.ended.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Whether this is the one of that key, and waits for something.
    pub(crate) fn canceled_by(&self, index: u32, key: &[u8]) -> bool {
        self.index == index && pg::auth::equal(&self.key, key) && self.waits.get()
    }

    /// Serves the connection until its end.
    pub(crate) async fn serve(
        self: Rc<Administrator>,
        router: &Rc<Router>,
        mut console: Console,
        stream: Transport,
    ) {
        router.links.administrators.fetch_add(1, Ordering::Relaxed);
        router.administrators.borrow_mut().insert(self.line.id, Rc::clone(&self));
        self.converse(&orders::host(router), &mut console, &stream).await;
        router.administrators.borrow_mut().remove(&self.line.id);
        router.clients.remove(self.index);
        router.links.administrators.fetch_sub(1, Ordering::Relaxed);
        router.wake_waiting_for_end();
        router.resume_if_nobody_can().await;
    }

    async fn converse(&self, host: &Host, console: &mut Console, stream: &Transport) {
        let mut input = Input { stream, ahead: Vec::new() };
        loop {
            let Some(bytes) = poll_fn(|cx| self.poll_input(&mut input, cx)).await else { return };
            let mut out = Vec::new();
            self.waits.set(true);
            let flow = {
                let mut feeding = pin!(console.feed(&bytes, host, &mut out));
                poll_fn(|cx| {
                    if let Poll::Ready(flow) = feeding.as_mut().poll(cx) {
                        return Poll::Ready(flow);
                    }
                    // A command can take as long as a transaction: meanwhile it may go away.
                    match self.poll_ahead(&mut input, cx) {
                        Poll::Ready(()) => Poll::Ready(Flow::Close),
                        Poll::Pending => Poll::Pending,
                    }
                })
                .await
            };
            self.waits.set(false);
            stream.queue(&out);
            if flow == Flow::Close {
                return;
            }
        }
    }

    /// What has come, or comes next; `None` at the end.
    fn poll_input(&self, input: &mut Input<'_>, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        if !input.ahead.is_empty() {
            return Poll::Ready(Some(std::mem::take(&mut input.ahead)));
        }
        match self.poll_recv(input.stream, cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(chunk) => Poll::Ready(chunk.map(|chunk| chunk.to_vec())),
        }
    }

    /// Reads ahead, up to a bound; ready at the end of the connection.
    fn poll_ahead(&self, input: &mut Input<'_>, cx: &mut Context<'_>) -> Poll<()> {
        while input.ahead.len() < CONSOLE_MESSAGE_BYTES_MAX {
            match self.poll_recv(input.stream, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Ready(Some(chunk)) => input.ahead.extend_from_slice(&chunk),
            }
        }
        Poll::Pending
    }

    fn poll_recv(&self, stream: &Transport, cx: &mut Context<'_>) -> Poll<Option<Chunk>> {
        self.waker.replace(Some(cx.waker().clone()));
        if self.ended.get() {
            return Poll::Ready(None);
        }
        match stream.poll_recv(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(chunk)) if !chunk.is_empty() => Poll::Ready(Some(chunk)),
            Poll::Ready(_) => Poll::Ready(None),
        }
    }
}

/// A connection, and what was read of it while a command was under way.
struct Input<'a> {
    stream: &'a Transport,
    ahead: Vec<u8>,
}

impl Router {
    /// A cancel request of an administrator whose command waits ends PAUSE and SUSPEND of everything.
    pub(crate) fn cancel_administrator(self: &Rc<Router>, index: u32, key: &[u8]) {
        let waits = self.administrators.borrow().values().any(|one| one.canceled_by(index, key));
        if !waits || !(self.all_paused.get() || self.is_suspended()) || self.is_finishing() {
            return;
        }
        let router = Rc::clone(self);
        executor::spawn_detached(async move {
            let resume = Command::Order(Order::Resume { database: None });
            orders::ask_all(&router, &resume).await;
        });
    }
}
