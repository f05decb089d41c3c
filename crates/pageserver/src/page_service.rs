//! The page service: GetPage@LSN and its relatives over the Postgres protocol in replication mode.
//!
//! To Postgres' own programs it is a server that can be backed up and whose WAL can be received (`pg_basebackup`,
//! `pg_receivewal`); to ours also one that gives single pages as of any LSN. A request that is wrong gets a Postgres
//! error; one that cannot be read at all ends the connection.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use pg::sqlstate::SqlState;
use pg::wire::error::Report;
use runtime::net::{ListenOptions, Listener, Stream};
use runtime::tls::ServerTls;
use runtime::{clock, executor, random};

use crate::branches::Present;
use crate::error::{Error, PageError};
use crate::follower::Follower;
use crate::limits::{CLIENTS_MAX, COMMAND_BYTES_MAX, LOGIN_TIME_MAX};
use crate::login::KnownUser;
use crate::messages::Messages;
use crate::moment::Moment;
use crate::timeline::Timeline;
use crate::tls;
use crate::watch::unless_stopped;

mod backup;
mod lists;
mod pages;
mod session;
mod target;
mod wal;

use session::{End, Session};

/// The listening service.
pub struct PageService {
    follower: Rc<Follower>,
    users: Vec<KnownUser>,
    installation_nonce: [u8; 32],
    /// `None`: not offered.
    tls: Option<ServerTls>,
    /// Base backups under way: who takes it (branch, user and application; empty if nobody else may have its moment), and of
    /// when it is.
    backups: RefCell<Vec<(String, Weak<Moment>)>>,
    sessions: Cell<u32>,
}

impl PageService {
    /// Makes it ready; fails if the files that the settings name are not in order.
    pub fn new(follower: Rc<Follower>) -> Result<PageService, Error> {
        let mut users: Vec<_> = follower.settings.users.iter().map(KnownUser::new).collect();
        if !users.is_empty() {
            users.push(KnownUser::own());
        }
        let tls = tls::of_service(&follower.settings)?;
        let mut installation_nonce = [0; 32];
        random::fill(&mut installation_nonce);
        let (backups, sessions) = (RefCell::default(), Cell::default());
        Ok(PageService { follower, users, installation_nonce, tls, backups, sessions })
    }

    /// Binds the address of the settings.
    pub fn listen(&self) -> std::io::Result<Listener> {
        let address = runtime::net::Address::Tcp(self.follower.settings.listen);
        Listener::bind(&address, &ListenOptions::default())
    }

    /// Accepts clients until the page server stops.
    pub async fn run(self, listener: Listener) {
        let service = Rc::new(self);
        loop {
            let accepted = unless_stopped(service.follower.stop(), listener.accept()).await;
            match accepted {
                None => return,
                Some(Err(error)) => {
                    tracing::warn!(%error, "the page service could not accept a connection");
                    clock::sleep(crate::limits::RETRY_PAUSE_MIN).await;
                }
                Some(Ok((stream, _peer))) => {
                    executor::spawn_detached(serve(Rc::clone(&service), stream));
                }
            }
        }
    }

    /// The timeline of this name, if there is one to read.
    fn timeline(&self, branch: &str) -> Result<Rc<Timeline>, Report> {
        let branches = self.follower.branches().ok_or_else(|| PageError::NotReady.report())?;
        branches.get(branch).ok_or_else(|| {
            let message = format!("branch \"{branch}\" does not exist");
            Report::error(SqlState::INVALID_PARAMETER_VALUE, message)
        })
    }

    /// Waits until everything is here that the server which writes the timeline has flushed by now.
    async fn catch_up(&self, timeline: &Timeline) -> Result<Present, PageError> {
        match self.follower.branches() {
            Some(branches) => Box::pin(branches.catch_up(timeline)).await,
            None => Err(PageError::NotReady),
        }
    }

    /// A number that no session of the recent past had.
    fn next_session(&self) -> u32 {
        let number = self.sessions.get() % 0x7FFF_FFFF + 1;
        self.sessions.set(number);
        number
    }

    /// Answers a request for encryption, and goes on encrypted if we can.
    async fn begin_tls(&self, messages: &mut Messages, wanted: bool) -> Result<(), End> {
        match self.tls.as_ref().filter(|_| wanted) {
            None => messages.queue(b"N"),
            Some(tls) => {
                messages.queue(b"S");
                messages.accept_tls(tls).await.map_err(|error| {
                    tracing::info!(%error, "TLS handshake failed");
                    End::Closed
                })?;
            }
        }
        Ok(())
    }

    /// Whether a connection that is not encrypted is let in.
    fn check_encrypted(&self, messages: &Messages) -> Result<(), Report> {
        if messages.tls().is_some() || !self.follower.settings.requires_tls() {
            return Ok(());
        }
        let message = "the page service takes encrypted connections only";
        let state = SqlState::INVALID_AUTHORIZATION_SPECIFICATION;
        Err(Report::fatal(state, message).with_hint("connect with sslmode=require"))
    }
}

async fn serve(service: Rc<PageService>, stream: Stream) {
    let follower = Rc::clone(&service.follower);
    let mut messages = Messages::new(stream, COMMAND_BYTES_MAX);
    follower.clients.set(follower.clients.get() + 1);
    let end = if follower.clients.get() > CLIENTS_MAX as u64 {
        let message = "sorry, too many clients already";
        End::Fatal(Report::fatal(SqlState::TOO_MANY_CONNECTIONS, message))
    } else {
        match unless_stopped(follower.stop(), Session::run(service, &mut messages)).await {
            Some(Ok(())) | Some(Err(End::Closed)) => End::Closed,
            Some(Err(end)) => end,
            None => {
                let message = "terminating connection: the page server is shutting down";
                End::Fatal(Report::fatal(SqlState::ADMIN_SHUTDOWN, message))
            }
        }
    };
    if let End::Fatal(report) = end {
        let mut packet = Vec::new();
        report.write(&mut packet);
        messages.queue(&packet);
    }
    // The peer may be gone; there is nobody left to tell.
    let _closed = clock::timeout(LOGIN_TIME_MAX, messages.shutdown()).await;
    follower.clients.set(follower.clients.get() - 1);
}
