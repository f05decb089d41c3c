//! What a client that is let in gets: a session, a server of its own for replication, the console.

use std::rc::Rc;

use pg::sqlstate::SqlState;
use pg::wire::backend::{Authentication, TransactionStatus, write};
use pg::wire::error::Report;
use runtime::clock;

use super::opening::Wanted;
use super::waiting::{Tell, await_welcome};
use super::{Arrival, Refused, Seat, fatal};
use crate::census::Place;
use crate::client::Parts;
use crate::console::snapshot::Connection;
use crate::console::{Console, WELCOME_PARAMETERS};
use crate::console_client::Administrator;
use crate::limits::CANCEL_KEY_BYTES;
use crate::parameters::{self, ParameterSet};
use crate::registry;
use crate::replication;
use crate::route::{Greeting, Route, Welcome};
use crate::rules::ConsoleRight;
use crate::spelling;

impl Arrival<'_> {
    /// Tells the client that it is in, and makes a session of it.
    pub(super) async fn welcome(
        &mut self,
        route: Rc<Route>,
        wanted: Wanted,
        place: Place,
    ) -> Result<Seat, Refused> {
        // Counted from here, so that its pool knows of it while it waits for the first server.
        let mut counted = Counted::new(&route);
        let seat = self.make_client(&route, wanted, place).await;
        counted.stays = seat.is_ok();
        seat
    }

    /// A connection that is passed through to a server of its own.
    pub(super) async fn replicate(
        &mut self,
        route: Rc<Route>,
        wanted: Wanted,
        place: Place,
    ) -> Result<Seat, Refused> {
        self.await_resume(&route).await?;
        self.await_target(&route, Tell::Nothing).await?;
        let line = Connection {
            id: self.router.new_id(),
            user: wanted.user,
            database: wanted.database,
            connect_time_micros: clock::wall_micros(),
            ..Connection::default()
        };
        let client = self.stream();
        let asked = replication::Asked {
            kind: wanted.replication,
            parameters: wanted.parameters,
            long_key: wanted.version.has_long_cancel_keys(),
            line,
            place,
        };
        let session = replication::open(self.router, route, client, asked).await?;
        if let Some(rest) = std::mem::take(&mut self.handshake).into_rest() {
            self.stream().unrecv(rest);
        }
        Ok(Seat::Replication(session))
    }

    async fn make_client(
        &mut self,
        route: &Rc<Route>,
        wanted: Wanted,
        place: Place,
    ) -> Result<Seat, Refused> {
        let began = route.target_round();
        self.await_target(route, Tell::Notices).await?;
        await_welcome(route, began).await?;
        let Some(welcome) = route.welcome.borrow().clone() else { return Err(Refused::Silently) };
        let greeting = self.greeting(&welcome, &wanted)?;
        let index =
            self.router.clients.reserve().ok_or_else(|| {
                fatal(SqlState::TOO_MANY_CONNECTIONS, "no more connections allowed")
            })?;
        let mut cancel_key = [0; CANCEL_KEY_BYTES];
        runtime::random::fill(&mut cancel_key);
        self.let_in();
        self.stream().queue(&greeting.messages);
        let mut out = Vec::new();
        let long_key = wanted.version.has_long_cancel_keys();
        let key = if long_key { &cancel_key[..] } else { &cancel_key[..4] };
        write::backend_key_data(&mut out, registry::process_id(self.router.core, index), key);
        let notice = &self.rules.settings.login_notify_message;
        if !notice.is_empty() {
            Report::notice(notice.clone()).write(&mut out);
        }
        write::ready_for_query(&mut out, TransactionStatus::Idle);
        self.stream().queue(&out);
        if let Some(rest) = std::mem::take(&mut self.handshake).into_rest() {
            self.stream().unrecv(rest);
        }
        if self.rules.settings.log_connections {
            tracing::info!(
                address = %self.address, user = wanted.user, database = wanted.database,
                "client logged in"
            );
        }
        route.stats.count(|counters| counters.client_login_count += 1);
        Ok(Seat::Client(Box::new(Parts {
            index,
            id: self.router.new_id(),
            cancel_key,
            long_key,
            route: Rc::clone(route),
            user: wanted.user.as_str().into(),
            parameters: Rc::clone(&greeting.parameters),
            place,
        })))
    }

    /// Says that the proof was good; before that clients expect nothing but demands and errors.
    pub(super) fn let_in(&mut self) {
        if !self.is_let_in {
            self.is_let_in = true;
            let mut out = Vec::new();
            write::authentication(&mut out, Authentication::Ok);
            self.stream().queue(&out);
        }
    }

    /// What the client is told of its session. Clients that come one after the other mostly ask for the same.
    fn greeting(&self, welcome: &Welcome, wanted: &Wanted) -> Result<Rc<Greeting>, Refused> {
        // Where the client's address goes into a value, no two are the same.
        let shared = !self.rules.settings.application_name_add_host;
        let same = |recent: &&Rc<Greeting>| recent.asked == wanted.parameters;
        if shared && let Some(recent) = welcome.recent.borrow().as_ref().filter(same) {
            return Ok(Rc::clone(recent));
        }
        let parameters = self.parameters(welcome, wanted)?;
        let mut messages = Vec::new();
        for (name, value) in &welcome.parameters {
            let own = parameters.get(name);
            write::parameter_status(&mut messages, &**name, own.map_or(&**value, |own| own));
        }
        let greeting = Rc::new(Greeting { asked: wanted.parameters.clone(), parameters, messages });
        welcome.recent.replace(shared.then(|| Rc::clone(&greeting)));
        Ok(greeting)
    }

    /// The parameters of the new session: the server's, changed as the client asks.
    fn parameters(&self, welcome: &Welcome, wanted: &Wanted) -> Result<Rc<ParameterSet>, Refused> {
        let sets = &self.router.per_core.parameters;
        let tracked = self.router.per_core.tracked.borrow();
        let mut set = Rc::clone(&welcome.tracked);
        for (name, value) in &wanted.parameters {
            let value = parameters::clean_value(value.as_bytes()).ok_or_else(|| {
                fatal(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("value of startup parameter \"{name}\" is too long"),
                )
            })?;
            let value = if self.rules.settings.application_name_add_host
                && name.eq_ignore_ascii_case("application_name")
            {
                format!("{value} - {}", self.address)
            } else {
                value
            };
            let name = tracked.name(name).cloned().unwrap_or_else(|| name.as_str().into());
            let own = welcome.tracked.get(&name);
            let spelled = own.and_then(|own| spelling::reported(&name, &value, own));
            let value = spelled.unwrap_or(value);
            set = sets.with(&set, &name, Some(&value));
        }
        Ok(set)
    }

    /// A session of the console.
    pub(super) async fn console(&mut self, wanted: Wanted) -> Result<Seat, Refused> {
        let right = self.rules.console_right(&wanted.user);
        let same_user = self.is_own_user();
        if !same_user {
            self.prove(&wanted).await?;
        }
        let right = right.or(same_user.then_some(ConsoleRight::Admin)).ok_or_else(|| {
            fatal(SqlState::INSUFFICIENT_PRIVILEGE, "not allowed to connect to the console")
        })?;
        let mut out = Vec::new();
        write::authentication(&mut out, Authentication::Ok);
        for (name, value) in WELCOME_PARAMETERS {
            write::parameter_status(&mut out, name, value);
        }
        let index =
            self.router.clients.reserve().ok_or_else(|| {
                fatal(SqlState::TOO_MANY_CONNECTIONS, "no more connections allowed")
            })?;
        let mut key = [0; CANCEL_KEY_BYTES];
        runtime::random::fill(&mut key);
        let key = if wanted.version.has_long_cancel_keys() { &key[..] } else { &key[..4] };
        write::backend_key_data(&mut out, registry::process_id(self.router.core, index), key);
        write::ready_for_query(&mut out, TransactionStatus::Idle);
        self.stream().queue(&out);
        if let Some(rest) = std::mem::take(&mut self.handshake).into_rest() {
            self.stream().unrecv(rest);
        }
        let console = Console::new(&wanted.user, right);
        let is_name = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("application_name");
        let application_name = wanted.parameters.iter().find(is_name);
        let mut line = Connection {
            id: self.router.new_id(),
            user: wanted.user.clone(),
            database: wanted.database.clone(),
            connect_time_micros: clock::wall_micros(),
            application_name: application_name.map(|(_, value)| value.clone()).unwrap_or_default(),
            ..Connection::default()
        };
        crate::orders::describe(&mut line, self.stream());
        Ok(Seat::Console(Administrator::new(index, key, line), console))
    }
}

/// A client of the route's, unless its log-in ends before it is one.
struct Counted<'a> {
    route: &'a Route,
    stays: bool,
}

impl Counted<'_> {
    fn new(route: &Route) -> Counted<'_> {
        route.clients.set(route.clients.get() + 1);
        Counted { route, stays: false }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if !self.stays {
            self.route.clients.set(self.route.clients.get() - 1);
            self.route.expect(self.route.forget_after());
        }
    }
}
