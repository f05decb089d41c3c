//! The clients of one core, by number. The number is most of a client's process id towards itself.

use std::cell::RefCell;
use std::rc::Rc;

use crate::client::Client;

/// Bits of a process id that are the client's place; those above are its core.
const INDEX_BITS: u32 = 24;

#[derive(Default)]
pub(crate) struct Registry {
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    clients: Vec<Option<Rc<Client>>>,
    free: Vec<u32>,
}

impl Registry {
    /// A free place; `None` when there are more clients than a process id can tell apart.
    pub(crate) fn reserve(&self) -> Option<u32> {
        let mut slots = self.slots.borrow_mut();
        if let Some(index) = slots.free.pop() {
            return Some(index);
        }
        let index =
            u32::try_from(slots.clients.len()).ok().filter(|index| *index < 1 << INDEX_BITS)?;
        slots.clients.push(None);
        Some(index)
    }

    pub(crate) fn insert(&self, client: &Rc<Client>) {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.clients.get_mut(client.index as usize) {
            *slot = Some(Rc::clone(client));
        }
    }

    /// Gives a place back.
    pub(crate) fn remove(&self, index: u32) {
        let mut slots = self.slots.borrow_mut();
        if let Some(slot) = slots.clients.get_mut(index as usize) {
            let gone = slot.take();
            slots.free.push(index);
            drop(slots);
            drop(gone);
        }
    }

    pub(crate) fn get(&self, index: u32) -> Option<Rc<Client>> {
        self.slots.borrow().clients.get(index as usize).cloned().flatten()
    }

    pub(crate) fn all(&self) -> Vec<Rc<Client>> {
        self.slots.borrow().clients.iter().flatten().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        let slots = self.slots.borrow();
        slots.clients.len() - slots.free.len()
    }
}

/// The process id that stands for a client of a core. Never 0, never negative.
pub(crate) fn process_id(core: usize, index: u32) -> u32 {
    let core = u32::try_from(core).unwrap_or(u32::MAX) & 0x3F;
    ((core + 1) << INDEX_BITS) | index
}

/// The core and the place in it that a process id stands for, if it is one of ours.
pub(crate) fn locate(process_id: u32) -> Option<(usize, u32)> {
    let core = (process_id >> INDEX_BITS).checked_sub(1)?;
    Some((core as usize, process_id & ((1 << INDEX_BITS) - 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_id_leads_back_to_its_client() {
        for (core, index) in [(0, 0), (0, 1), (5, 0xFF_FFFF), (63, 7)] {
            let id = process_id(core, index);
            assert_eq!(locate(id), Some((core, index)));
            assert!(i32::try_from(id).is_ok_and(|id| id > 0), "libpq reads it signed");
        }
        assert_eq!(locate(0), None);
    }
}
