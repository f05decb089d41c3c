//! Permits to open connections, and connections that move: so that sizes and limits are exact for the process, and who
//! has waited longest on any core is next.

use std::rc::Rc;

use runtime::clock::{self, Instant};
use runtime::executor;

use super::Router;
use super::links::Message;
use crate::home::{Ask, Full, Limits, Refused, RouteName};
use crate::route::Route;
use crate::server::{Moving, Server};

impl Router {
    /// Asks for permission to open a connection. False if the answer is no already.
    pub(crate) fn ask_permit(self: &Rc<Router>, route: &Rc<Route>) -> bool {
        let rule = route.rule();
        let since = route.waiting_since().unwrap_or(clock::now());
        let timeout = self.rules.borrow().settings.reserve_pool_timeout;
        let starving = clock::now() - since >= timeout;
        let reserve = if starving { rule.reserve_pool_size } else { 0 };
        let ask = Ask {
            core: self.core,
            route: route.name(),
            limits: Limits {
                pool: rule.pool_size + reserve,
                database: rule.max_db_connections,
                user: rule.max_user_connections,
            },
            since,
            wants_welcome: route.welcome.borrow().is_none(),
        };
        if self.home.is_none() {
            // A full mailbox is a core in trouble; the cron asks again.
            if self.post(0, Message::Ask(ask)) {
                route.pool.asked.set(route.pool.asked.get() + 1);
                return true;
            }
            return false;
        }
        if self.decide(ask) {
            route.open_one();
            return true;
        }
        false
    }

    /// Core 0: gives a permit, or sees to it that the core that asks gets a server otherwise.
    pub(super) fn decide(self: &Rc<Router>, ask: Ask) -> bool {
        let Some(home) = &self.home else { return false };
        let refused = home.borrow_mut().ask(ask.clone());
        match refused {
            Ok(()) => true,
            Err(Refused::Pool { richest: Some(richest) }) => {
                let Ask { core: to, route, since, wants_welcome, .. } = ask;
                self.post(richest, Message::Share { route, to, since, wants_welcome });
                false
            }
            Err(Refused::Pool { richest: None }) => false,
            Err(Refused::Shared(full)) => {
                self.evict(ask.route, full);
                false
            }
        }
    }

    /// A database or user is at its limit: an idle connection of another of its pools must go, of this core's or else
    /// of the next one's that has one.
    pub(super) fn evict(self: &Rc<Router>, name: RouteName, full: Full) {
        let is_victim = |route: &&Rc<Route>| {
            let same_database = *route.key.database == *name.database;
            let same_user = *route.key.user == *name.user;
            same_database != same_user && (full.database && same_database || full.user && same_user)
        };
        let routes = self.routes();
        let idle = |route: &Rc<Route>| route.pool.idle().into_iter().next();
        let victim = routes
            .iter()
            .filter(is_victim)
            .find_map(|route| idle(route).map(|server| (Rc::clone(route), server)));
        if let Some((route, server)) = victim {
            route.pool.take_this(&server);
            // Not now: whoever asked is not remembered as waiting until it returns.
            executor::spawn_detached(async move { route.close(&server, "evicted") });
        } else if self.core + 1 < self.cores() {
            // If it does not arrive: whoever waits asks again.
            self.post(self.core + 1, Message::Evict(name, full));
        }
    }

    /// A permit comes back.
    pub(crate) fn server_closed(self: &Rc<Router>, route: &Route) {
        self.permit_back(self.core, route.name());
        self.wake_waiting_for_end();
    }

    pub(super) fn permit_back(self: &Rc<Router>, core: usize, name: RouteName) {
        let Some(home) = &self.home else {
            self.post_surely(0, Message::Closed { core, route: name });
            return;
        };
        let next = home.borrow_mut().closed(core, &name);
        let Some(ask) = next else { return };
        if ask.core == self.core {
            self.granted(&ask.route);
        } else {
            self.post_surely(ask.core, Message::Granted(ask.route));
        }
    }

    /// A permit arrives that was asked for some time ago.
    pub(super) fn granted(self: &Rc<Router>, name: &RouteName) {
        match self.named(name) {
            Some(route) if route.wants_server() => route.open_one(),
            _ => {
                let (router, name) = (Rc::clone(self), name.clone());
                executor::spawn_detached(async move { router.permit_back(router.core, name) });
            }
        }
    }

    /// Hands a free server to another core if a client there has waited longer than any here.
    /// Gives it back if nobody has.
    pub(crate) fn give_away(
        self: &Rc<Router>,
        route: &Rc<Route>,
        server: Rc<Server>,
    ) -> Option<Rc<Server>> {
        if self.debts.borrow().is_empty() || !server.is_clean() {
            return Some(server);
        }
        let name = route.name();
        let mut debts = self.debts.borrow_mut();
        let Some(waiting) = debts.get_mut(&name) else { return Some(server) };
        let Some((since, to)) = waiting.first().copied() else { return Some(server) };
        if route.waiting_since().is_some_and(|ours| ours <= since) {
            return Some(server);
        }
        waiting.remove(0);
        if waiting.is_empty() {
            debts.remove(&name);
        }
        drop(debts);
        route.disown(&server);
        match Moving::take(server) {
            Ok(Some(moving)) => {
                self.post_surely(0, Message::Moved { from: self.core, to, route: name.clone() });
                let welcome = route.welcome.borrow().as_ref().map(|welcome| welcome.owned());
                let welcome = welcome.unwrap_or_default();
                self.post_surely(to, Message::Server(name, Box::new(moving), welcome));
            }
            Ok(None) => self.permit_back(self.core, name),
            Err(server) => {
                route.own(&server);
                return Some(server);
            }
        }
        None
    }

    pub(super) fn owe(self: &Rc<Router>, name: RouteName, to: usize, since: Instant) {
        let route = self.named(&name);
        {
            let mut debts = self.debts.borrow_mut();
            let waiting = debts.entry(name).or_default();
            waiting.retain(|(_, other)| *other != to);
            let at = waiting.partition_point(|(other, _)| *other <= since);
            waiting.insert(at, (since, to));
        }
        if let Some(route) = route
            && let Some(server) = route.pool.idle().into_iter().next()
            && route.pool.take_this(&server)
        {
            route.put(server);
        }
    }

    /// All servers of a route may be in use for long; its clients can log in nevertheless.
    pub(super) fn tell_welcome(&self, name: &RouteName, to: usize) {
        let Some(route) = self.named(name) else { return };
        let welcome = route.welcome.borrow().as_ref().map(|welcome| welcome.owned());
        if let Some(welcome) = welcome {
            self.post(to, Message::Welcome(name.clone(), welcome));
        }
    }

    pub(super) fn answered(&self, name: &RouteName) {
        if let Some(route) = self.named(name) {
            route.pool.asked.set(route.pool.asked.get().saturating_sub(1));
        }
    }

    pub(super) fn adopt(
        self: &Rc<Router>,
        name: &RouteName,
        moving: Moving,
        welcome: &[(String, String)],
    ) {
        let route = self.named(name);
        if let Some(route) = &route {
            learn_welcome(route, welcome);
        }
        let generation = route.as_ref().map_or(0, |route| route.pool.generation.get());
        let server = moving.settle(&self.per_core, generation);
        match (route, server) {
            (Some(route), Some(server)) => route.adopt(server),
            _ => self.permit_back(self.core, name.clone()),
        }
    }
}

/// What another core was told by a server of the route.
pub(super) fn learn_welcome(route: &Route, welcome: &[(String, String)]) {
    let parameters = welcome.iter();
    let parameters = parameters.map(|(name, value)| (name.as_str().into(), value.as_str().into()));
    route.learn_welcome(parameters.collect());
}
