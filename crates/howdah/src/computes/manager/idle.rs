//! Who is idle, and has to go: after a time, or when others wait for a place.

use std::rc::Rc;

use runtime::clock;

use super::{Compute, Manager};
use crate::computes::Phase;
use crate::limits::{COMPUTE_IDLE_POLL, COMPUTE_LEASE_RENEWAL, COMPUTE_SPARE};

impl Manager {
    /// Looks now and then who is idle, for as long as the core runs.
    pub(in crate::computes) async fn watch(self: Rc<Self>) {
        let mut renewed = clock::now();
        loop {
            clock::sleep(COMPUTE_IDLE_POLL).await;
            if self.computes.borrow().is_empty() {
                continue;
            }
            self.look().await;
            if renewed.elapsed() >= COMPUTE_LEASE_RENEWAL {
                renewed = clock::now();
                self.renew_leases().await;
            }
        }
    }

    /// Stops who has been idle for long; and, if others wait for a place, who has been idle at all.
    pub(super) async fn look(&self) {
        let Some(users) = self.pooler.targets().await else { return };
        let all: Vec<Rc<Compute>> = self.computes.borrow().values().cloned().collect();
        let runs = |compute: &&Rc<Compute>| compute.phase.get() == Phase::Running;
        let mut idle = Vec::new();
        for compute in all.iter().filter(runs) {
            let texts = compute.texts.borrow();
            let clients =
                texts.iter().filter_map(|text| users.get(text)).map(|&count| u64::from(count));
            compute.clients.set(clients.sum());
            if compute.clients.get() > 0 {
                compute.used.set(clock::now());
            } else if !self.is_primary(compute) {
                idle.push(Rc::clone(compute));
            }
        }
        idle.sort_by_key(|compute| compute.used.get());
        let timeout = self.launcher.settings.idle_timeout;
        let mut wanted = self.queued();
        for compute in idle {
            let since = compute.used.get().elapsed();
            let is_old = !timeout.is_zero() && since >= timeout;
            let is_wanted = wanted > 0 && since >= COMPUTE_SPARE;
            if (is_old || is_wanted) && self.release(&compute).await {
                wanted = wanted.saturating_sub(1);
            }
        }
    }

    /// Whether one more gets a place at once. Those count, too, that are about to take theirs.
    pub(super) fn has_room(&self) -> bool {
        let computes = self.computes.borrow();
        let others = computes.values().filter(|it| self.launcher.primary_of(&it.spec).is_none());
        let (queued, placed): (Vec<_>, Vec<_>) =
            others.partition(|compute| compute.phase.get() == Phase::Queued);
        queued.is_empty() && placed.len() < self.launcher.settings.max_running
    }

    /// Computes that wait for a place.
    fn queued(&self) -> usize {
        let computes = self.computes.borrow();
        computes.values().filter(|compute| compute.phase.get() == Phase::Queued).count()
    }

    /// Stops it unless the pooler has a client for it; then nobody is cut off.
    async fn release(&self, compute: &Compute) -> bool {
        let asked_for = compute.used.get();
        let texts = compute.texts.borrow().clone();
        for text in texts {
            if !self.pooler.release_target(text).await {
                return false;
            }
        }
        if compute.used.get() != asked_for {
            // By somebody who came meanwhile, and was told where it is.
            return false;
        }
        compute.phase.set(Phase::Stopping);
        compute.stop.set(());
        true
    }
}
