//! The process-wide account of server connections, kept by core 0.
//!
//! A connection exists, anywhere, only with a permit from here: so pool sizes and the limits of
//! databases and users are exact however many cores there are. Requests that cannot be granted are
//! remembered and granted, oldest first, when a permit comes back.

use std::collections::{BTreeMap, VecDeque};

use runtime::clock::Instant;

/// Database and server user; `Send`, for it goes from core to core.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteName {
    pub(crate) database: String,
    pub(crate) user: String,
}

/// The limits that hold for a request, as its core's rules have them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Of the pool, with the reserve if the request may use it.
    pub(crate) pool: u32,
    pub(crate) database: Option<u32>,
    pub(crate) user: Option<u32>,
}

/// A core asks for a permit.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) core: usize,
    pub(crate) route: RouteName,
    pub(crate) limits: Limits,
    /// Since when its oldest client waits.
    pub(crate) since: Instant,
    /// Nobody has told it yet what servers of the route say at login, and its clients wait for that.
    pub(crate) wants_welcome: bool,
}

/// Why a permit cannot be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The pool is as large as it may be. This core has most of it, if not the one that asks.
    Pool { richest: Option<usize> },
    /// The database or the user, or both, have as many as they may have.
    Shared(Full),
}

/// Whose limit over all of its pools is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) database: bool,
    pub(crate) user: bool,
}

#[derive(Default)]
pub(crate) struct Home {
    pools: BTreeMap<RouteName, Vec<u32>>,
    databases: BTreeMap<String, u32>,
    users: BTreeMap<String, u32>,
    refused: VecDeque<Ask>,
}

impl Home {
    /// Gives a permit, or says why not; then the request is remembered.
    pub(crate) fn ask(&mut self, ask: Ask) -> Result<(), Refused> {
        let refused = self.check(&ask);
        match refused {
            None => self.grant(&ask),
            Some(_) => {
                let same = |other: &Ask| other.core == ask.core && other.route == ask.route;
                self.refused.retain(|other| !same(other));
                self.refused.push_back(ask);
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Takes a permit back; gives the request that it goes to, if one waits for it.
    pub(crate) fn closed(&mut self, core: usize, route: &RouteName) -> Option<Ask> {
        if let Some(slot) = self.pools.get_mut(route).and_then(|cores| cores.get_mut(core)) {
            *slot = slot.saturating_sub(1);
        }
        if self.total(route) == 0 {
            self.pools.remove(route);
        }
        subtract(&mut self.databases, &route.database);
        subtract(&mut self.users, &route.user);
        let next = self.refused.iter().position(|ask| self.check(ask).is_none())?;
        let ask = self.refused.remove(next)?;
        self.grant(&ask);
        Some(ask)
    }

    /// A connection has moved.
    pub(crate) fn moved(&mut self, from: usize, to: usize, route: &RouteName) {
        let cores = self.pools.entry(route.clone()).or_default();
        cores.resize(cores.len().max(from.max(to) + 1), 0);
        cores[from] = cores[from].saturating_sub(1);
        cores[to] += 1;
        self.refused.retain(|ask| ask.core != to || ask.route != *route);
    }

    fn check(&self, ask: &Ask) -> Option<Refused> {
        let at =
            |counts: &BTreeMap<String, u32>, name: &str| counts.get(name).copied().unwrap_or(0);
        if self.total(&ask.route) >= ask.limits.pool {
            return Some(Refused::Pool { richest: self.richest(&ask.route, ask.core) });
        }
        let full = |limit: Option<u32>, count: u32| limit.is_some_and(|limit| count >= limit);
        let shared = Full {
            database: full(ask.limits.database, at(&self.databases, &ask.route.database)),
            user: full(ask.limits.user, at(&self.users, &ask.route.user)),
        };
        (shared.database || shared.user).then_some(Refused::Shared(shared))
    }

    fn grant(&mut self, ask: &Ask) {
        let cores = self.pools.entry(ask.route.clone()).or_default();
        cores.resize(cores.len().max(ask.core + 1), 0);
        cores[ask.core] += 1;
        *self.databases.entry(ask.route.database.clone()).or_default() += 1;
        *self.users.entry(ask.route.user.clone()).or_default() += 1;
    }

    fn total(&self, route: &RouteName) -> u32 {
        self.pools.get(route).map_or(0, |cores| cores.iter().sum())
    }

    /// The other core with the most connections of a route.
    fn richest(&self, route: &RouteName, than: usize) -> Option<usize> {
        let cores = self.pools.get(route)?;
        let others = cores.iter().enumerate().filter(|(core, count)| *core != than && **count > 0);
        others.max_by_key(|(_, count)| **count).map(|(core, _)| core)
    }
}

fn subtract(counts: &mut BTreeMap<String, u32>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(core: usize, database: &str, user: &str, limits: (u32, u32, u32)) -> Ask {
        let limit = |limit: u32| (limit > 0).then_some(limit);
        Ask {
            core,
            route: RouteName { database: database.to_owned(), user: user.to_owned() },
            limits: Limits { pool: limits.0, database: limit(limits.1), user: limit(limits.2) },
            since: Instant(0),
            wants_welcome: false,
        }
    }

    #[test]
    fn a_pool_is_exact_over_all_cores() {
        let mut home = Home::default();
        assert_eq!(home.ask(ask(0, "d", "u", (2, 0, 0))), Ok(()));
        assert_eq!(home.ask(ask(1, "d", "u", (2, 0, 0))), Ok(()));
        let refused = Err(Refused::Pool { richest: Some(0) });
        assert_eq!(home.ask(ask(1, "d", "u", (2, 0, 0))), refused);
        let next = home.closed(0, &ask(0, "d", "u", (0, 0, 0)).route);
        assert_eq!(next.map(|ask| ask.core), Some(1), "it waited");
        assert!(home.ask(ask(0, "d", "u", (2, 0, 0))).is_err());
    }

    #[test]
    fn a_database_and_a_user_have_limits_over_their_pools() {
        let mut home = Home::default();
        assert_eq!(home.ask(ask(0, "d", "u", (9, 2, 0))), Ok(()));
        assert_eq!(home.ask(ask(0, "d", "v", (9, 2, 0))), Ok(()));
        let full = |database, user| Err(Refused::Shared(Full { database, user }));
        assert_eq!(home.ask(ask(0, "d", "w", (9, 2, 0))), full(true, false));
        assert_eq!(home.ask(ask(0, "e", "v", (9, 0, 1))), full(false, true));
        assert_eq!(home.ask(ask(0, "d", "v", (9, 2, 1))), full(true, true));
        let next = home.closed(0, &ask(0, "d", "u", (0, 0, 0)).route).expect("one waits");
        assert_eq!(next.route.user, "w");
    }

    #[test]
    fn a_connection_that_moves_is_counted_where_it_is() {
        let mut home = Home::default();
        assert_eq!(home.ask(ask(0, "d", "u", (1, 0, 0))), Ok(()));
        assert!(home.ask(ask(1, "d", "u", (1, 0, 0))).is_err());
        home.moved(0, 1, &ask(0, "d", "u", (0, 0, 0)).route);
        let refused = Err(Refused::Pool { richest: Some(1) });
        assert_eq!(home.ask(ask(0, "d", "u", (1, 0, 0))), refused);
        assert!(
            home.closed(1, &ask(0, "d", "u", (0, 0, 0)).route).is_some_and(|ask| ask.core == 0)
        );
    }
}
