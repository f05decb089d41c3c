//! A page server of a test's own, on a thread of its own, and questions to it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use pageserver::api::{Phase, Scrub, Status};
use pageserver::attachment::{self, Attachment};
use pageserver::branches::{At, Attached, Present, Writing};
use pageserver::client::{Client, ClientError, PageStream};
use pageserver::connection::Login;
use pageserver::moment::Moment;
use pageserver::scrub;
use pageserver::server::Server;
use pageserver::settings::{Password, Settings};
use pageserver::tls::Encryption;
use pg::datadir::relation::RelTag;
use pg::lsn::Lsn;
use runtime::mailbox::{self, Reply, Sender};
use runtime::{clock, executor, io};

/// Longest wait for anything that should come soon: a guard against hangs, not a measurement.
const PATIENCE: Duration = Duration::from_secs(120);

enum Order {
    Status(Reply<Status>),
    CreateBranch {
        name: String,
        from: String,
        at: String,
        reply: Reply<Result<Present, String>>,
    },
    DeleteBranch {
        name: String,
        reply: Reply<Result<(), String>>,
    },
    Attach {
        name: String,
        wanted: Attachment,
        reply: Reply<Result<Attached, String>>,
    },
    Detach {
        name: String,
        reply: Reply<Result<Attached, String>>,
    },
    Release(Reply<Result<Attached, String>>),
    Writing {
        name: String,
        reply: Reply<Writing>,
    },
    /// The cluster as of an LSN: the end of its last record, and how many bytes of WAL it cost.
    Moment {
        name: String,
        lsn: Lsn,
        reply: Reply<Result<(Lsn, u64), String>>,
    },
    End {
        name: String,
        reply: Reply<Lsn>,
    },
    /// Up to where a branch is in layers.
    Layered {
        name: String,
        reply: Reply<Lsn>,
    },
    /// Compares all checksums.
    Scrub(Reply<Scrub>),
    /// For so many seconds; none: ends it.
    Lease {
        name: String,
        lsn: Lsn,
        seconds: Option<i64>,
        reply: Reply<Result<(), String>>,
    },
    /// Orderly, or at once as a crash would.
    Stop {
        orderly: bool,
    },
}

/// A running page server; killed when dropped.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// Runs a future on a core of this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    executor::block_on(&io::Options::default(), future).expect("this thread can be a core")
}

pub(crate) fn settings(directory: PathBuf, server: String) -> Settings {
    let listen = "127.0.0.1:0".parse().expect("an address");
    // Small, so that most of what a test writes goes through layers.
    let checkpoint_bytes = 1 << 20;
    Settings { directory, server, listen, checkpoint_bytes, ..Settings::default() }
}

impl Service {
    pub(crate) fn start(settings: Settings) -> Service {
        let (orders, mut received) = mailbox::channel::<Order>(16);
        let (started, address) = mailbox::oneshot();
        let run = move || {
            block_on(async move {
                let server = Server::start(settings).expect("the page server starts");
                started.send(server.address()).expect("the test waits");
                while let Some(order) = received.recv().await {
                    match order {
                        Order::Status(reply) => drop(reply.send(server.status())),
                        Order::CreateBranch { name, from, at, reply } => {
                            let branches = server.follower().branches().expect("a base backup");
                            let made = branches.create(&name, &from, At::parse(&at)).await;
                            let made = made.map(|(_timeline, present)| present);
                            drop(reply.send(made.map_err(|error| format!("{error:?}"))));
                        }
                        Order::DeleteBranch { name, reply } => {
                            let branches = server.follower().branches().expect("a base backup");
                            let deleted = branches.delete(&name).await;
                            drop(reply.send(deleted.map_err(|error| format!("{error:?}"))));
                        }
                        Order::Attach { name, wanted, reply } => {
                            let branches = server.follower().branches().expect("a base backup");
                            let done = branches.attach(&name, wanted).await;
                            drop(reply.send(done.map_err(|error| format!("{error:?}"))));
                        }
                        Order::Detach { name, reply } => {
                            let branches = server.follower().branches().expect("a base backup");
                            let done = branches.detach(&name).await;
                            drop(reply.send(done.map_err(|error| format!("{error:?}"))));
                        }
                        Order::Release(reply) => {
                            let branches = server.follower().branches().expect("a base backup");
                            let done = branches.release_main().await;
                            drop(reply.send(done.map_err(|error| format!("{error:?}"))));
                        }
                        Order::Writing { name, reply } => {
                            let branches = server.follower().branches().expect("a base backup");
                            drop(reply.send(branches.writing(&name).expect("there is a branch")));
                        }
                        Order::Moment { name, lsn, reply } => {
                            let branches = server.follower().branches().expect("a base backup");
                            let timeline = branches.get(&name).expect("there is a branch");
                            let before = timeline.wal_bytes_read();
                            let moment = Moment::of(Rc::clone(&timeline), lsn).await;
                            let cost = timeline.wal_bytes_read() - before;
                            let found = moment.map(|moment| (moment.state.end, cost));
                            drop(reply.send(found.map_err(|error| error.to_string())));
                        }
                        Order::End { name, reply } => {
                            let branches = server.follower().branches().expect("a base backup");
                            drop(reply.send(branches.end_of(&name).expect("there is a branch")));
                        }
                        Order::Layered { name, reply } => {
                            let branches = server.follower().branches().expect("a base backup");
                            let timeline = branches.get(&name).expect("there is a branch");
                            drop(reply.send(timeline.flushed()));
                        }
                        Order::Scrub(reply) => {
                            let follower = server.follower();
                            *follower.scrub.borrow_mut() = Scrub::default();
                            scrub::run(Rc::clone(&follower)).await;
                            drop(reply.send(follower.scrub.borrow().clone()));
                        }
                        Order::Lease { name, lsn, seconds, reply } => {
                            let branches = server.follower().branches().expect("a base backup");
                            let branch = branches.find(&name).expect("there is a branch");
                            let until = seconds.map(|s| clock::wall_micros() + s * 1_000_000);
                            let done = match until {
                                Some(until) => branch.lease(lsn, "test", until).await.map(drop),
                                None => branch.end_lease(lsn, "test").await,
                            };
                            drop(reply.send(done.map_err(|error| format!("{error:?}"))));
                        }
                        Order::Stop { orderly: true } => return server.stop().await,
                        Order::Stop { orderly: false } => return,
                    }
                }
            });
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the test plays the clients on its own thread"
        )]
        let thread = std::thread::spawn(run);
        let address = block_on(address).expect("the page server starts");
        Service { address, orders, thread: Some(thread) }
    }

    pub(crate) fn status(&self) -> Status {
        let (reply, pending) = mailbox::oneshot();
        let asked = self.orders.try_send(Order::Status(reply));
        assert!(asked.is_ok(), "the page server listens to its test");
        block_on(pending).expect("the page server answers")
    }

    /// Makes a branch at an LSN, a time or a restore point (as a text).
    pub(crate) fn branch(&self, name: &str, from: &str, at: &str) -> Result<Present, String> {
        let (reply, pending) = mailbox::oneshot();
        let (name, from, at) = (name.to_owned(), from.to_owned(), at.to_owned());
        let asked = self.orders.try_send(Order::CreateBranch { name, from, at, reply });
        assert!(asked.is_ok(), "the page server listens to its test");
        block_on(pending).expect("the page server answers")
    }

    fn ask<T: Send>(&self, order: impl FnOnce(Reply<T>) -> Order) -> T {
        let (reply, pending) = mailbox::oneshot();
        let asked = self.orders.try_send(order(reply));
        assert!(asked.is_ok(), "the page server listens to its test");
        block_on(pending).expect("the page server answers")
    }

    /// Attaches the compute on this socket.
    pub(crate) fn attach(
        &self,
        name: &str,
        socket: &str,
        epoch: Option<u64>,
    ) -> Result<Attached, String> {
        let server = attachment::Server { address: socket.to_owned(), ..Default::default() };
        let (name, wanted) = (name.to_owned(), Attachment { server, epoch });
        self.ask(|reply| Order::Attach { name, wanted, reply })
    }

    pub(crate) fn detach(&self, name: &str) -> Attached {
        let name = name.to_owned();
        self.ask(|reply| Order::Detach { name, reply }).expect("it can be detached")
    }

    /// `main` does not follow the server of the settings any more.
    pub(crate) fn release_main(&self) -> Attached {
        self.ask(Order::Release).expect("it can be released")
    }

    pub(crate) fn writing(&self, name: &str) -> Writing {
        let name = name.to_owned();
        self.ask(|reply| Order::Writing { name, reply })
    }

    /// A cluster as of an LSN: where its last record ends, and how many bytes of WAL were read for it.
    pub(crate) fn moment(&self, name: &str, lsn: Lsn) -> Result<(Lsn, u64), String> {
        let name = name.to_owned();
        self.ask(|reply| Order::Moment { name, lsn, reply })
    }

    /// Where a branch ends.
    pub(crate) fn end_of(&self, name: &str) -> Lsn {
        let name = name.to_owned();
        self.ask(|reply| Order::End { name, reply })
    }

    /// Up to where a branch is in layers.
    pub(crate) fn layered(&self, name: &str) -> Lsn {
        let name = name.to_owned();
        self.ask(|reply| Order::Layered { name, reply })
    }

    /// Compares all checksums.
    pub(crate) fn scrub(&self) -> Scrub {
        self.ask(Order::Scrub)
    }

    /// How somebody logs in to read a branch.
    pub(crate) fn login(&self, branch: &str) -> Login {
        Login {
            server: self.address.to_string(),
            user: "tester".to_owned(),
            password: Password::default(),
            application_name: "test".to_owned(),
            database: branch.to_owned(),
            encryption: Encryption::default(),
        }
    }

    pub(crate) fn delete_branch(&self, name: &str) -> Result<(), String> {
        let (reply, pending) = mailbox::oneshot();
        let asked = self.orders.try_send(Order::DeleteBranch { name: name.to_owned(), reply });
        assert!(asked.is_ok(), "the page server listens to its test");
        block_on(pending).expect("the page server answers")
    }

    /// Keeps a moment for so many seconds, or no longer.
    pub(crate) fn lease(&self, name: &str, lsn: Lsn, seconds: Option<i64>) -> Result<(), String> {
        let (reply, pending) = mailbox::oneshot();
        let asked =
            self.orders.try_send(Order::Lease { name: name.to_owned(), lsn, seconds, reply });
        assert!(asked.is_ok(), "the page server listens to its test");
        block_on(pending).expect("the page server answers")
    }

    /// Everything that a branch has as of `lsn`: relations, and all their pages one after another.
    pub(crate) fn contents(
        &self,
        branch: &str,
        lsn: Lsn,
    ) -> Result<BTreeMap<RelTag, Vec<u8>>, ClientError> {
        let login = self.login(branch);
        block_on(async move {
            let mut client = Client::log_in(&login).await?;
            let relations = client.relations(lsn).await?;
            let mut stream = client.into_stream().await?;
            let mut found = BTreeMap::new();
            for (tag, blocks) in relations {
                let blocks: Vec<u32> = (0..blocks).collect();
                let mut pages = Vec::new();
                for some in blocks.chunks(64) {
                    pages.extend(stream.pages(tag, some, lsn).await?);
                }
                found.insert(tag, pages);
            }
            Ok(found)
        })
    }

    /// Waits until the status is as `expected` says.
    pub(crate) fn wait(&self, what: &str, expected: impl Fn(&Status) -> bool) -> Status {
        let begin = clock::precise();
        loop {
            let status = self.status();
            if expected(&status) {
                return status;
            }
            let waited = clock::precise() - begin;
            assert!(waited < PATIENCE, "{what} does not come: {status:#?}");
            block_on(async { clock::sleep(Duration::from_millis(20)).await });
        }
    }

    pub(crate) fn wait_streaming(&self) -> Status {
        self.wait("streaming", |status| status.phase == Phase::Streaming)
    }

    /// Waits until everything up to `lsn` is in the index.
    pub(crate) fn wait_lsn(&self, lsn: Lsn) -> Status {
        self.wait(&format!("LSN {lsn}"), |status| {
            let ingested = status.ingested_lsn.as_ref().and_then(|text| text.parse::<Lsn>().ok());
            ingested.is_some_and(|ingested| ingested >= lsn)
        })
    }

    pub(crate) fn stop(mut self) {
        self.end(true);
    }

    /// Ends it as a crash would: nothing is said, nothing flushed.
    pub(crate) fn kill(mut self) {
        self.end(false);
    }

    fn end(&mut self, orderly: bool) {
        let _gone_already = self.orders.try_send(Order::Stop { orderly });
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the page server's thread panicked");
        }
    }

    /// One page as of `lsn`.
    pub(crate) fn page(&self, tag: RelTag, block: u32, lsn: Lsn) -> Result<Vec<u8>, ClientError> {
        let address = self.address;
        block_on(async move { stream(address).await.pages(tag, &[block], lsn).await })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end(false);
    }
}

/// A page stream to a page service.
pub(crate) async fn stream(address: SocketAddr) -> PageStream {
    let client = Client::connect(&address.to_string(), "tester", "").await;
    client.expect("the page service lets us in").into_stream().await.expect("a page stream begins")
}
