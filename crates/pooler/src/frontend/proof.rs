//! Who a client is: the method that is asked for, and what it yields for logging in to servers.

use std::sync::Arc;

use pg::auth::scram::Keys;
use pg::sqlstate::SqlState;
use pg::wire::startup::Replication;
use runtime::identity::User;
use runtime::net::Address;

use super::opening::Wanted;
use super::{Arrival, Refused, fatal};
use crate::auth::{self, ClientAuth, Exchange, KeyCache, Known};
use crate::hba::{Attempt, Method, Origin};
use crate::lookup;
use crate::route::RouteKey;
use crate::settings::Secret;

/// What a log-in has shown that helps to log in to servers as the same user.
pub(super) struct Proven {
    /// What `auth_query` said, if it was asked.
    found: Option<Secret>,
    keys: Option<Keys>,
}

impl Proven {
    pub(super) fn remember(self, cache: &KeyCache, route: &RouteKey) {
        if let Some(secret) = self.found {
            cache.learn_found(route, secret);
        }
        if let Some(keys) = self.keys {
            cache.learn(route, keys);
        }
    }
}

impl Arrival<'_> {
    /// Has the client prove who it is.
    pub(super) async fn prove(&mut self, wanted: &Wanted) -> Result<Proven, Refused> {
        let rules = Arc::clone(&self.rules);
        let origin = match self.address {
            Address::Tcp(address) => Origin::Tcp { address: address.ip(), tls: self.is_tls() },
            Address::Unix(_) => Origin::Unix,
        };
        // A connection to a database that streams its changes is one to this database, for Postgres too.
        let replication = wanted.replication == Replication::Physical;
        let database = self.router.base_of(&rules, &wanted.database);
        let attempt = Attempt { origin, database, user: &wanted.user, replication };
        let demand = rules.demand(&attempt).map_err(|refusal| {
            fatal(SqlState::INVALID_AUTHORIZATION_SPECIFICATION, refusal.to_string())
        })?;
        let mut found = None;
        let asks_nothing = demand.method == Method::Reject
            || rules.settings.auth_type == crate::settings::AuthType::Any;
        if !asks_nothing && rules.secret(&wanted.user).is_none() {
            found = lookup::secret(self.router, database, &wanted.user).await?;
        }
        let exchange = match demand.method {
            Method::Trust => {
                let settings = &rules.settings;
                let any = settings.auth_type == crate::settings::AuthType::Any
                    || settings.trust_unknown_users;
                if any || rules.knows_user(&wanted.user) || found.is_some() {
                    return Ok(Proven { found, keys: None });
                }
                return Err(fatal(
                    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                    format!("no such user: \"{}\"", wanted.user),
                ));
            }
            Method::Password => Exchange::Clear,
            Method::Md5 => Exchange::Md5,
            Method::ScramSha256 => Exchange::Scram,
            Method::Cert | Method::Peer | Method::Reject => {
                let proven = self.proven_name(demand.method);
                if proven.is_some_and(|name| demand.permits(&name, &wanted.user)) {
                    return Ok(Proven { found, keys: None });
                }
                return Err(fatal(
                    SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
                    format!("authentication failed for user \"{}\"", wanted.user),
                ));
            }
        };
        let mut auth = ClientAuth {
            stream: self.stream.as_ref().expect("the TLS handshake is over"),
            user: &wanted.user,
            known: rules.secret(&wanted.user).or(found.as_ref()).map(Known::of),
            cache: &self.router.keys,
            iterations: rules.settings.scram_iterations,
            end_point: self.stream().tls().and_then(|tls| tls.end_point_hash()),
        };
        let keys = auth::authenticate(&mut auth, &mut self.handshake, exchange).await?;
        Ok(Proven { found, keys })
    }

    /// The name that the connection itself proves: of a certificate or a system user.
    fn proven_name(&self, method: Method) -> Option<String> {
        match method {
            Method::Cert => self.stream().peer_certificate()?.common_name,
            Method::Peer => {
                let uid = self.stream().stream().peer_credentials()?.uid;
                User::with_uid(uid).ok()?.map(|user| user.name)
            }
            _ => None,
        }
    }

    /// PgBouncer lets whoever runs the pooler into its console without a password, by unix socket.
    pub(super) fn is_own_user(&self) -> bool {
        self.stream()
            .stream()
            .peer_credentials()
            .is_some_and(|peer| peer.uid == self.router.own_uid)
    }
}
