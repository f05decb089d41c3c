//! Mailboxes: what cores tell each other, and what each does about it.

use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use runtime::clock::Instant;
use runtime::executor;
use runtime::mailbox::{Receiver, Reply, Sender};
use runtime::net::{Address, Detached};

use super::Router;
use super::permits::learn_welcome;
use crate::cancel::CancelTarget;
use crate::census::{Counter, Whose};
use crate::command::{Answer, Command};
use crate::home::{Ask, Full, RouteName};
use crate::limits::MAILBOX_CAPACITY;
use crate::server::Moving;

/// What cores tell each other.
pub(crate) enum Message {
    /// An accepted connection to be served here.
    Connection(Detached, Address),
    /// Cancel what this client of yours runs.
    Cancel(CancelTarget),
    /// To core 0: may I open a connection?
    Ask(Ask),
    /// From core 0: yes.
    Granted(RouteName),
    /// From core 0: not now.
    Refused(RouteName),
    /// To core 0: a connection is no more.
    Closed {
        core: usize,
        route: RouteName,
    },
    /// To core 0: a connection has moved.
    Moved {
        from: usize,
        to: usize,
        route: RouteName,
    },
    /// From core 0: that core's clients wait since then; give it a connection when it is its turn.
    Share {
        route: RouteName,
        to: usize,
        since: Instant,
        wants_welcome: bool,
    },
    /// Close an idle connection for this route's sake, or pass it on.
    Evict(RouteName, Full),
    /// What servers of this route say at login, to a core that asked.
    Welcome(RouteName, Vec<(String, String)>),
    /// A connection that moves in, and what servers of its route say at login.
    Server(RouteName, Box<Moving>, Vec<(String, String)>),
    Command(Command, Reply<Answer>),
    /// To core 0: the counter of these clients.
    Counter(Whose, Reply<Counter>),
}

/// The mailboxes of all cores, and what little they share.
pub struct Links {
    senders: OnceLock<Box<[OnceLock<Sender<Message>>]>>,
    /// Clients of all cores, those that are logging in included.
    pub(crate) clients: AtomicU32,
    /// Of these, clients of the console.
    pub(crate) administrators: AtomicU32,
    /// The newest version of the rules that anybody has begun to load.
    version: AtomicU64,
}

impl Links {
    pub fn new() -> Arc<Links> {
        Arc::new(Links {
            senders: OnceLock::new(),
            clients: AtomicU32::new(0),
            administrators: AtomicU32::new(0),
            version: AtomicU64::new(0),
        })
    }

    /// Makes the mailbox of one core.
    pub(crate) fn open(&self, core: usize, cores: usize) -> Receiver<Message> {
        let (sender, receiver) = runtime::mailbox::channel(MAILBOX_CAPACITY);
        let senders = self.senders.get_or_init(|| (0..cores).map(|_| OnceLock::new()).collect());
        if let Some(slot) = senders.get(core) {
            // Each core opens its own, once.
            let _first = slot.set(sender);
        }
        receiver
    }

    pub(crate) fn to(&self, core: usize) -> Option<&Sender<Message>> {
        self.senders.get()?.get(core)?.get()
    }

    pub(crate) fn has_no_administrators(&self) -> bool {
        self.administrators.load(Ordering::Relaxed) == 0
    }

    /// A version for new rules that no others have, whichever cores load some at once.
    pub(crate) fn next_version(&self, present: u64) -> u64 {
        self.version.fetch_max(present, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn cores(&self) -> usize {
        self.senders.get().map_or(0, |senders| senders.len())
    }
}

impl Router {
    /// Sends to another core (or this one); false if it does not take it.
    pub(crate) fn post(&self, core: usize, message: Message) -> bool {
        self.links.to(core).is_some_and(|sender| sender.try_send(message).is_ok())
    }

    /// Sends what must arrive, however full the mailbox is.
    pub(crate) fn post_surely(&self, core: usize, message: Message) {
        let Some(sender) = self.links.to(core).cloned() else { return };
        if let Err(full) = sender.try_send(message) {
            executor::spawn_detached(async move {
                // A core that is gone needs no message.
                let _gone = sender.send(full.0).await;
            });
        }
    }

    /// Reads the mailbox for as long as the core runs.
    pub(crate) async fn serve(self: Rc<Router>, mut mailbox: Receiver<Message>) {
        while let Some(message) = mailbox.recv().await {
            self.handle(message);
        }
    }

    fn handle(self: &Rc<Router>, message: Message) {
        match message {
            Message::Connection(detached, address) => {
                crate::listener::attach(self, detached, address);
            }
            Message::Cancel(target) => crate::cancel::cancel_client(self, &target),
            Message::Ask(ask) => {
                let (core, route) = (ask.core, ask.route.clone());
                let answer = if self.decide(ask) {
                    Message::Granted(route)
                } else {
                    Message::Refused(route)
                };
                self.post_surely(core, answer);
            }
            Message::Granted(name) => {
                self.answered(&name);
                self.granted(&name);
            }
            Message::Refused(name) => self.answered(&name),
            Message::Closed { core, route } => self.permit_back(core, route),
            Message::Moved { from, to, route } => {
                if let Some(home) = &self.home {
                    home.borrow_mut().moved(from, to, &route);
                }
            }
            Message::Share { route, to, since, wants_welcome } => {
                if wants_welcome {
                    self.tell_welcome(&route, to);
                }
                self.owe(route, to, since);
            }
            Message::Evict(name, full) => self.evict(name, full),
            Message::Welcome(name, welcome) => {
                if let Some(route) = self.named(&name) {
                    learn_welcome(&route, &welcome);
                    route.wake_logins();
                }
            }
            Message::Server(name, moving, welcome) => self.adopt(&name, *moving, &welcome),
            Message::Counter(whose, reply) => {
                if let Some(census) = &self.census {
                    // Whoever asked may have gone.
                    let _unwanted = reply.send(census.borrow_mut().counter(whose));
                }
            }
            Message::Command(command, reply) => {
                let router = Rc::clone(self);
                executor::spawn_detached(async move {
                    // Nobody waits for the answer any longer: then it does not matter.
                    let _unwanted = reply.send(router.carry_out(command).await);
                });
            }
        }
    }
}
