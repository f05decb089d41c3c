//! The table of a core's tasks and the queue of those that are ready.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use crate::limits::TASKS_MAX;

/// The future given to `block_on`, which lives on its stack.
const ROOT: u32 = 0;

pub(super) type Work = Pin<Box<dyn Future<Output = ()>>>;

/// Names a task. `generation` tells a task from an earlier one in the same slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TaskId {
    pub(super) core: u32,
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl TaskId {
    /// Bits 0..32 generation, 32..56 index, 56..64 core.
    pub(super) fn pack(self, core: u32) -> u64 {
        u64::from(core) << 56 | u64::from(self.index) << 32 | u64::from(self.generation)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the fields are cut out of the word")]
    pub(super) fn unpack(packed: u64) -> Self {
        let (core, index) = ((packed >> 56) as u32, (packed >> 32) as u32 & 0x00ff_ffff);
        Self { core, index, generation: packed as u32 }
    }
}

struct Slot {
    /// `None` while the task runs, in a free slot, and for the root.
    work: Option<Work>,
    generation: u32,
    occupied: bool,
    /// In the ready queue. Survives the slot's task, so that no index is queued twice.
    queued: bool,
    /// Aborted while it was running: to be dropped when it comes back.
    aborted: bool,
}

pub(super) struct Scheduler {
    slots: Vec<Slot>,
    free: Vec<u32>,
    ready: VecDeque<u32>,
}

impl Scheduler {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), ready: VecDeque::new() }
    }

    pub(super) fn with_root() -> Self {
        let mut scheduler = Self::new();
        let root = scheduler.allocate();
        scheduler.wake_index(root);
        scheduler
    }

    /// Adds a task, ready to run.
    pub(super) fn insert(&mut self, work: Work) -> TaskId {
        let index = self.allocate();
        let slot = &mut self.slots[index as usize];
        slot.work = Some(work);
        let generation = slot.generation;
        self.wake_index(index);
        TaskId { core: 0, index, generation }
    }

    /// Tasks that have not ended, the root among them.
    pub(super) fn alive(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }

    pub(super) fn wake(&mut self, task: TaskId) {
        let known = self
            .slots
            .get(task.index as usize)
            .is_some_and(|slot| slot.generation == task.generation);
        if known {
            self.wake_index(task.index);
        }
    }

    /// Wakes whatever is in the slot: a wake too many does no harm.
    pub(super) fn wake_index(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        if slot.occupied && !std::mem::replace(&mut slot.queued, true) {
            self.ready.push_back(index);
        }
    }

    /// The next ready task and its future, which is out until [`put_back`](Self::put_back); `None` for the root.
    pub(super) fn next(&mut self) -> Option<(TaskId, Option<Work>)> {
        loop {
            let index = self.ready.pop_front()?;
            let slot = &mut self.slots[index as usize];
            slot.queued = false;
            let work = slot.work.take();
            if work.is_some() || index == ROOT {
                return Some((TaskId { core: 0, index, generation: slot.generation }, work));
            }
        }
    }

    /// The future comes back after a poll, to wait or, when done or aborted, to be dropped by the caller.
    pub(super) fn put_back(&mut self, task: TaskId, work: Work, done: bool) -> Option<Work> {
        let slot = &mut self.slots[task.index as usize];
        if !done && !slot.aborted {
            slot.work = Some(work);
            return None;
        }
        self.vacate(task.index);
        Some(work)
    }

    /// Takes a waiting task out, to be dropped by the caller; marks a running one.
    pub(super) fn abort(&mut self, task: TaskId) -> Option<Work> {
        let slot = self.slots.get_mut(task.index as usize)?;
        if slot.generation != task.generation {
            return None;
        }
        slot.aborted = true;
        let work = slot.work.take()?;
        self.vacate(task.index);
        Some(work)
    }

    /// Takes every waiting task out, to be dropped by the caller.
    pub(super) fn take_all(&mut self) -> Vec<Work> {
        let held = |(index, slot): (usize, &Slot)| slot.work.is_some().then_some(index);
        let indices = self.slots.iter().enumerate().filter_map(held).collect::<Vec<_>>();
        indices.into_iter().filter_map(|index| self.take_waiting(index)).collect()
    }

    fn take_waiting(&mut self, index: usize) -> Option<Work> {
        let work = self.slots[index].work.take();
        self.vacate(u32::try_from(index).ok()?);
        work
    }

    fn allocate(&mut self) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
            assert!(index < TASKS_MAX, "a core has room for {TASKS_MAX} tasks");
            let (queued, occupied, aborted) = (false, false, false);
            self.slots.push(Slot { work: None, generation: 0, occupied, queued, aborted });
            index
        });
        self.slots[index as usize].occupied = true;
        index
    }

    fn vacate(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        slot.occupied = false;
        slot.aborted = false;
        self.free.push(index);
    }
}
