//! How `main` leaves a data directory for the page server: the directory's server runs until it is followed, is shut
//! down, and goes on record as left once the page server has its shutdown checkpoint. Computes take over from there.
//!
//! Whatever ends this half-way, the next start begins it anew: until the record is written nothing has moved.

use std::path::PathBuf;

use pageserver::api::{Handle, Phase, Status};
use pg::datadir::control::{ControlFile, State};
use pg::lsn::Lsn;
use runtime::app::{self, App, Applet, LocalFuture, Node, Stop};
use runtime::clock;
use runtime::fs::blocking as fs;

use crate::error::{Error, Result, While};
use crate::limits::{FIRST_BACKUP_WAIT, HANDOVER_WAIT, PRIMARY_POLL};
use crate::output;
use crate::postgres::place::{Record, Stage};

/// The branch that is handed over.
const MAIN: &str = "main";

/// What is handed over.
#[derive(Clone)]
pub(super) struct Handover {
    pub(super) data: PathBuf,
    pub(super) pages: Handle,
    pub(super) record: Record,
    pub(super) stage: Stage,
}

/// Server and page server as one App, of which the page server is what stays.
pub(super) fn app(server: App, pageserver: App, handover: Handover) -> App {
    App::new("pageserver", move |node| Leaving {
        server: (server.make)(node),
        pageserver: (pageserver.make)(node),
        handover: handover.clone(),
    })
}

struct Leaving {
    server: Box<dyn Applet>,
    pageserver: Box<dyn Applet>,
    handover: Handover,
}

impl Leaving {
    async fn leave(&self, node: &Node) -> std::result::Result<(), app::Error> {
        self.server.start(node).await?;
        let followed = async {
            self.pageserver.start(node).await?;
            if node.index == 0 {
                self.handover.followed().await?;
            }
            Ok(())
        };
        let followed = followed.await;
        // The page server receives its shutdown checkpoint meanwhile.
        self.server.stop(Stop::Now).await;
        let received = match followed {
            Ok(()) if node.index == 0 => self.handover.received().await.map_err(app::Error::from),
            done => done,
        };
        if received.is_err() {
            // A start that fails leaves nothing behind.
            self.pageserver.stop(Stop::Now).await;
        }
        received
    }
}

impl Applet for Leaving {
    fn name(&self) -> &'static str {
        "pageserver"
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, std::result::Result<(), app::Error>> {
        Box::pin(self.leave(node))
    }

    fn stop<'a>(&'a self, how: Stop) -> LocalFuture<'a, ()> {
        self.pageserver.stop(how)
    }
}

impl Handover {
    /// Waits until the page server follows the directory's server.
    async fn followed(&self) -> Result<()> {
        let deadline = clock::now() + FIRST_BACKUP_WAIT;
        let mut bar = None;
        loop {
            let status = self.status().await?;
            if let Some(backup) = status.backup {
                let total = backup.bytes_total.max(backup.bytes_done);
                let bar =
                    bar.get_or_insert_with(|| output::progress(total, "base backup", "bytes"));
                bar.set_length(total);
                bar.set_position(backup.bytes_done);
            }
            match status.phase {
                Phase::Streaming => break,
                Phase::Failed | Phase::Stopped => return Err(not_followed(status)),
                _ if clock::now() > deadline => return Err(not_followed(status)),
                _ => clock::sleep(PRIMARY_POLL).await,
            }
        }
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        Ok(())
    }

    /// Waits until the page server has the shutdown checkpoint on disk and taken in, and puts it on record.
    async fn received(&self) -> Result<()> {
        let checkpoint = self.shutdown_checkpoint()?;
        let deadline = clock::now() + HANDOVER_WAIT;
        while !self.has_passed(checkpoint).await {
            if clock::now() > deadline {
                return Err(Error::new(
                    "the page server has not received the server's shutdown checkpoint",
                )
                .detail(format!("it is at {checkpoint}"))
                .hint("nothing has moved; start again"));
            }
            clock::sleep(PRIMARY_POLL).await;
        }
        self.record.write(self.stage.handed_over())?;
        tracing::info!(%checkpoint, "main lives in the page server from here on");
        Ok(())
    }

    /// The last record of a server that was shut down.
    fn shutdown_checkpoint(&self) -> Result<Lsn> {
        let path = self.data.join("global/pg_control");
        let bytes =
            fs::read(&path).or_fail(format_args!("could not read \"{}\"", path.display()))?;
        let control = ControlFile::parse(&bytes).or_fail(format_args!("\"{}\"", path.display()))?;
        if control.state != State::ShutDown {
            return Err(Error::new("the server was not shut down cleanly")
                .detail(format!("its state is {:?}", control.state))
                .hint("nothing has moved; start again"));
        }
        Ok(control.checkpoint_lsn)
    }

    /// Records end behind where they begin: a page server that is behind the beginning of one has all of it.
    async fn has_passed(&self, begin: Lsn) -> bool {
        let branches = self.pages.branches().await.unwrap_or_default();
        let Some(main) = branches.iter().find(|branch| branch.name == MAIN) else { return false };
        let behind = |lsn: &str| lsn.parse::<Lsn>().is_ok_and(|lsn| lsn > begin);
        behind(&main.newest_lsn) && main.flushed_lsn.as_deref().is_some_and(behind)
    }

    async fn status(&self) -> Result<Status> {
        let status = self.pages.status().await;
        status.ok_or_else(|| Error::new("the page server does not run"))
    }
}

fn not_followed(status: Status) -> Error {
    let error = Error::new("the page server does not follow the server");
    match status.error {
        Some(problem) => error.detail(problem.message),
        None => error,
    }
}
