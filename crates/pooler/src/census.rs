//! How many clients each database and each user has, over all cores, for their limits.
//!
//! Core 0 keeps one counter to a name and hands it to whoever asks. A core asks once and then counts by
//! itself, so the limits are exact and a log-in does not wait for another core.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use crate::limits::REMEMBERED_MAX;

/// Whose clients are counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    /// Of a database, as clients name it.
    Database(String),
    /// Of a user, as clients log in.
    User(String),
}

pub(crate) type Counter = Arc<AtomicU32>;

/// Core 0's counters. One lives for as long as a core or a client holds it.
#[derive(Default)]
pub(crate) struct Census {
    counters: BTreeMap<Whose, Weak<AtomicU32>>,
    /// So many there were when those that nobody holds were last thrown out.
    alive: usize,
}

impl Census {
    pub(crate) fn counter(&mut self, whose: Whose) -> Counter {
        if let Some(counter) = self.counters.get(&whose).and_then(Weak::upgrade) {
            return counter;
        }
        if self.counters.len() >= REMEMBERED_MAX.max(2 * self.alive) {
            self.counters.retain(|_, counter| counter.strong_count() > 0);
            self.alive = self.counters.len();
        }
        let counter = Counter::default();
        self.counters.insert(whose, Arc::downgrade(&counter));
        counter
    }
}

/// The counters that one core has.
#[derive(Default)]
pub(crate) struct Counters {
    known: RefCell<BTreeMap<Whose, Counter>>,
}

impl Counters {
    pub(crate) fn get(&self, whose: &Whose) -> Option<Counter> {
        self.known.borrow().get(whose).cloned()
    }

    pub(crate) fn learn(&self, whose: Whose, counter: &Counter) {
        let mut known = self.known.borrow_mut();
        if known.len() >= REMEMBERED_MAX {
            // Those that are in use are held by their clients too, and come back as the same.
            known.clear();
        }
        known.insert(whose, Arc::clone(counter));
    }
}

/// A client's place among those of its database and of its user; given back when dropped.
pub(crate) struct Place {
    database: Counter,
    user: Counter,
}

/// Which limit leaves no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full(pub(crate) &'static str);

impl Place {
    /// Takes a place if there is one. `None` as a limit: as many as like.
    pub(crate) fn take(
        database: Counter,
        user: Counter,
        limits: ClientLimits,
    ) -> Result<Place, Full> {
        count_in(&database, limits.database, "max_db_client_connections")?;
        if let Err(full) = count_in(&user, limits.user, "max_user_client_connections") {
            count_out(&database);
            return Err(full);
        }
        Ok(Place { database, user })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        count_out(&self.database);
        count_out(&self.user);
    }
}

/// Clients that a database and a user may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClientLimits {
    pub(crate) database: Option<u32>,
    pub(crate) user: Option<u32>,
}

fn count_in(counter: &Counter, limit: Option<u32>, name: &'static str) -> Result<(), Full> {
    let one_more = |count: u32| limit.is_none_or(|limit| count < limit).then(|| count + 1);
    let counted = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
    counted.map(drop).map_err(|_full| Full(name))
}

fn count_out(counter: &Counter) {
    counter.fetch_sub(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(name: &str) -> Whose {
        Whose::Database(name.to_owned())
    }

    fn take(
        census: &mut Census,
        name: &str,
        user: &str,
        limits: (u32, u32),
    ) -> Result<Place, Full> {
        let limits = ClientLimits { database: Some(limits.0), user: Some(limits.1) };
        let user = census.counter(Whose::User(user.to_owned()));
        Place::take(census.counter(database(name)), user, limits)
    }

    #[test]
    fn whoever_asks_gets_the_same_counter_while_somebody_holds_it() {
        let mut census = Census::default();
        let [one, two] = [(); 2].map(|()| census.counter(database("shop")));
        assert!(Arc::ptr_eq(&one, &two));
        assert!(!Arc::ptr_eq(&one, &census.counter(Whose::User("shop".to_owned()))));
        drop(one);
        assert!(Arc::ptr_eq(&two, &census.counter(database("shop"))), "somebody still counts");
    }

    #[test]
    fn a_refused_client_is_counted_nowhere() {
        let mut census = Census::default();
        let first = take(&mut census, "shop", "ann", (2, 1));
        let refused = take(&mut census, "shop", "ann", (2, 1)).err();
        assert_eq!(refused, Some(Full("max_user_client_connections")));
        let second = take(&mut census, "shop", "bob", (2, 1));
        assert!(second.is_ok(), "the database had room still");
        let refused = take(&mut census, "shop", "cora", (2, 1)).err();
        assert_eq!(refused, Some(Full("max_db_client_connections")));
        drop(first);
        assert!(take(&mut census, "shop", "ann", (2, 1)).is_ok(), "a place came free");
    }

    #[test]
    fn counters_that_nobody_holds_are_thrown_out() {
        let mut census = Census::default();
        let held = census.counter(database("held"));
        for number in 0..3 * REMEMBERED_MAX {
            let _unheld: Counter = census.counter(database(&number.to_string()));
        }
        assert!(census.counters.len() <= REMEMBERED_MAX + 1, "{}", census.counters.len());
        assert!(Arc::ptr_eq(&held, &census.counter(database("held"))));
    }

    #[test]
    fn a_core_forgets_counters_without_losing_count() {
        let (mut census, core) = (Census::default(), Counters::default());
        let counter = census.counter(database("held"));
        core.learn(database("held"), &counter);
        for number in 0..=REMEMBERED_MAX {
            core.learn(database(&number.to_string()), &Counter::default());
        }
        assert!(core.known.borrow().len() <= REMEMBERED_MAX);
        assert!(core.get(&database("held")).is_none());
        assert!(Arc::ptr_eq(&counter, &census.counter(database("held"))));
    }
}
