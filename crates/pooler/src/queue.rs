//! Clients waiting for a server, first come first served.
//!
//! A client leaves the queue from the middle by changing its ticket: its entry is skipped when it
//! comes to the front, and the count of those who really wait is kept apart.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::client::Client;

#[derive(Default)]
pub(crate) struct Queue {
    entries: RefCell<VecDeque<(Rc<Client>, u32)>>,
    waiting: Cell<usize>,
}

impl Queue {
    /// How many clients wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.get()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.get() == 0
    }

    pub(crate) fn push(&self, client: &Rc<Client>) {
        self.waiting.set(self.waiting.get() + 1);
        self.entries.borrow_mut().push_back((Rc::clone(client), client.ticket.get()));
    }

    /// Takes the client that has waited longest.
    pub(crate) fn pop(&self) -> Option<Rc<Client>> {
        let mut entries = self.entries.borrow_mut();
        while let Some((client, ticket)) = entries.pop_front() {
            if client.ticket.get() == ticket {
                self.waiting.set(self.waiting.get() - 1);
                client.ticket.set(ticket.wrapping_add(1));
                return Some(client);
            }
        }
        None
    }

    /// The client that has waited longest.
    pub(crate) fn front(&self) -> Option<Rc<Client>> {
        let mut entries = self.entries.borrow_mut();
        while let Some((client, ticket)) = entries.front() {
            if client.ticket.get() == *ticket {
                return Some(Rc::clone(client));
            }
            entries.pop_front();
        }
        None
    }

    /// Takes out a client that waits.
    pub(crate) fn remove(&self, client: &Client) {
        self.waiting.set(self.waiting.get() - 1);
        client.ticket.set(client.ticket.get().wrapping_add(1));
        if self.waiting.get() == 0 {
            self.entries.borrow_mut().clear();
        }
    }
}
