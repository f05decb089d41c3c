//! Which moments of a timeline stay readable: those from the horizon on, and those that somebody has pinned.
//!
//! The horizon lies as far back as the settings say and only moves forward. A branch pins the moment at which it left its
//! ancestor, a lease the one that it is for, a base backup under way its own.
//! Invariants: a moment is pinned only while it is readable; the horizon passes a moment before anything that only that
//! moment needs goes. So who reads asks [`Timeline::check_kept`] before, and again after: in between nothing is missing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use pg::lsn::Lsn;

use crate::error::PageError;
use crate::settings::Settings;
use crate::timeline::Timeline;

const MICROS_PER_SECOND: i64 = 1_000_000;

/// Moments that stay readable however old they grow, and how many want each.
#[derive(Debug, Default)]
pub struct Pins(RefCell<BTreeMap<Lsn, usize>>);

impl Pins {
    /// Pins a moment without asking whether it is readable: at a start everything still is that was pinned.
    pub(crate) fn add(self: &Rc<Pins>, lsn: Lsn) -> Pin {
        *self.0.borrow_mut().entry(lsn).or_default() += 1;
        Pin { pins: Rc::clone(self), lsn }
    }

    fn has(&self, lsn: Lsn) -> bool {
        self.0.borrow().contains_key(&lsn)
    }

    /// All of them, sorted.
    pub fn all(&self) -> Vec<Lsn> {
        self.0.borrow().keys().copied().collect()
    }
}

/// Keeps a moment readable until it is dropped.
#[derive(Debug)]
pub struct Pin {
    pins: Rc<Pins>,
    lsn: Lsn,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.0.borrow_mut();
        if let Some(count) = pins.get_mut(&self.lsn) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.lsn);
            }
        }
    }
}

impl Timeline {
    /// Keeps a moment readable for as long as the pin lives.
    ///
    /// # Errors
    /// When it is not readable any more.
    pub fn pin(&self, lsn: Lsn) -> Result<Pin, PageError> {
        self.check_kept(lsn)?;
        Ok(self.owner(lsn).pins.add(lsn))
    }

    /// The same of what was pinned in an earlier run, and so is readable.
    pub(crate) fn pin_at_start(&self, lsn: Lsn) -> Pin {
        self.owner(lsn).pins.add(lsn)
    }

    /// Refuses moments that are not readable any more.
    pub fn check_kept(&self, lsn: Lsn) -> Result<(), PageError> {
        let owner = self.owner(lsn);
        let (begin, horizon) = (owner.manifest.end, owner.horizon.get());
        if lsn < begin {
            return Err(PageError::TooOld { requested: lsn, oldest: begin });
        }
        if lsn < horizon && !owner.pins.has(lsn) {
            return Err(PageError::Forgotten { requested: lsn, horizon });
        }
        Ok(())
    }

    /// From here on every moment can be asked for; pinned ones may lie before.
    pub fn oldest(&self) -> Lsn {
        let own = self.manifest.end.max(self.horizon.get());
        match &self.ancestor {
            Some((ancestor, left)) if own <= *left => ancestor.oldest().min(*left),
            _ => own,
        }
    }

    /// The timeline that a moment is of: a branch's are its own from behind the branch point on.
    fn owner(&self, lsn: Lsn) -> &Timeline {
        match &self.ancestor {
            Some((ancestor, left)) if lsn <= *left => ancestor.owner(lsn),
            _ => self,
        }
    }

    /// Where the horizon would be by the settings; `now` in microseconds since 2000-01-01 UTC. What is not in layers yet
    /// is behind it.
    pub fn horizon_at(&self, settings: &Settings, now: i64) -> Lsn {
        let newest = self.flushed();
        let mut horizon = self.horizon.get();
        if settings.retention_seconds != 0 {
            let seconds = i64::try_from(settings.retention_seconds).unwrap_or(i64::MAX);
            let since = now.saturating_sub(seconds.saturating_mul(MICROS_PER_SECOND));
            let mark = self.catalog.borrow().last_before(since, now, newest);
            horizon = horizon.max(mark.map_or(Lsn::INVALID, |mark| mark.lsn));
        }
        if settings.retention_bytes != 0 {
            horizon = horizon.max(Lsn(newest.0.saturating_sub(settings.retention_bytes)));
        }
        horizon.min(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_pinned_until_the_last_who_wants_it_is_gone() {
        let pins = Rc::new(Pins::default());
        let (one, other) = (pins.add(Lsn(7)), pins.add(Lsn(7)));
        let earlier = pins.add(Lsn(3));
        assert_eq!(pins.all(), [Lsn(3), Lsn(7)]);
        drop(one);
        assert!(pins.has(Lsn(7)));
        drop((other, earlier));
        assert_eq!(pins.all(), []);
    }
}
