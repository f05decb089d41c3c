//! The handle by which any thread stops or reloads the process, or asks about it.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::node::{Command, NodeReport};
use crate::app::Stop;
use crate::limits::ORDERS_QUEUED_MAX;
use crate::mailbox::{self, Pending, Receiver, Sender};

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not all Apps have started.
    Starting,
    /// All Apps have started on all cores.
    Running,
    /// It was asked to stop, or an App could not start.
    Stopping,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        })
    }
}

/// Controls one nodepool. Clones are the same; any thread may use it.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    phase: AtomicU8,
    orders: Sender<Stop>,
    /// The other end of `orders`, until the pool takes it.
    inbox: Mutex<Option<Receiver<Stop>>>,
    cores: OnceLock<Vec<Sender<Command>>>,
    reloads: Mutex<Vec<Sender<()>>>,
}

impl Default for Control {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("phase", &self.phase()).finish_non_exhaustive()
    }
}

impl Control {
    /// The control of a pool that is yet to run.
    #[must_use]
    pub fn new() -> Self {
        let (orders, inbox) = mailbox::channel(ORDERS_QUEUED_MAX);
        let shared = Shared {
            phase: AtomicU8::new(0),
            orders,
            inbox: Mutex::new(Some(inbox)),
            cores: OnceLock::new(),
            reloads: Mutex::new(Vec::new()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Asks the process to stop. `Now` overtakes a drain that is under way; an order that changes nothing is ignored.
    pub fn stop(&self, how: Stop) {
        // A full queue holds as many orders to stop, and a closed one means that it has.
        self.shared.orders.try_send(how).ok();
    }

    /// Tells everyone who asked by [`Control::reloads`] to read the configuration again.
    pub fn reload(&self) {
        let mut reloads = self.shared.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        reloads.retain(|hook| !hook.is_closed());
        for hook in reloads.iter() {
            // One that has not been read yet stands for this one as well.
            hook.try_send(()).ok();
        }
    }

    /// A mailbox that gets one message per reload; several may be one. Dropping it ends that.
    #[must_use]
    pub fn reloads(&self) -> Receiver<()> {
        let (hook, reloads) = mailbox::channel(1);
        self.shared.reloads.lock().unwrap_or_else(PoisonError::into_inner).push(hook);
        reloads
    }

    /// Where the process is in its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.shared.phase.load(Ordering::Acquire) {
            0 => Phase::Starting,
            1 => Phase::Running,
            _ => Phase::Stopping,
        }
    }

    /// Asks every core about itself. The answers come one by one, in order of the cores; none from a core that is gone.
    /// The future may be awaited on any thread.
    pub async fn nodes(&self) -> Vec<NodeReport> {
        let asked: Vec<Pending<NodeReport>> = self
            .shared
            .cores
            .get()
            .into_iter()
            .flatten()
            .filter_map(|core| {
                let (reply, pending) = mailbox::oneshot();
                core.try_send(Command::Report(reply)).ok().map(|()| pending)
            })
            .collect();
        let mut reports = Vec::with_capacity(asked.len());
        for pending in asked {
            reports.extend(pending.await);
        }
        reports
    }

    /// Gives the pool its end.
    pub(super) fn attach(&self, cores: Vec<Sender<Command>>) -> Receiver<Stop> {
        let inbox = self.shared.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let inbox = inbox.expect("a control runs one pool, once");
        self.shared.cores.set(cores).expect("a control runs one pool, once");
        inbox
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        let phase = match phase {
            Phase::Starting => 0,
            Phase::Running => 1,
            Phase::Stopping => 2,
        };
        self.shared.phase.store(phase, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reloads_reach_everyone_who_listens_and_merge() {
        let control = Control::new();
        let mut first = control.reloads();
        let second = control.reloads();
        control.reload();
        drop(second);
        control.reload();
        assert_eq!(first.try_recv(), Some(()));
        assert_eq!(first.try_recv(), None);
        assert_eq!(control.shared.reloads.lock().unwrap().len(), 1);
    }
}
