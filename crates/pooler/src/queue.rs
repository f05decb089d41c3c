//! Clients waiting for a server, first come first served.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use crate::client::Client;

#[derive(Default)]
pub(crate) struct Queue {
    entries: RefCell<VecDeque<Rc<Client>>>,
}

impl Queue {
    /// How many clients wait.
    pub(crate) fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }

    pub(crate) fn push(&self, client: &Rc<Client>) {
        self.entries.borrow_mut().push_back(Rc::clone(client));
    }

    /// Takes the client that has waited longest.
    pub(crate) fn pop(&self) -> Option<Rc<Client>> {
        self.entries.borrow_mut().pop_front()
    }

    /// The client that has waited longest.
    pub(crate) fn front(&self) -> Option<Rc<Client>> {
        self.entries.borrow().front().cloned()
    }

    pub(crate) fn all(&self) -> Vec<Rc<Client>> {
        self.entries.borrow().iter().cloned().collect()
    }

    /// Takes out a client that waits. Those who give up are mostly the oldest, so it is soon found.
    pub(crate) fn remove(&self, client: &Client) {
        let mut entries = self.entries.borrow_mut();
        if let Some(at) = entries.iter().position(|other| std::ptr::eq(&**other, client)) {
            entries.remove(at);
        }
    }
}
