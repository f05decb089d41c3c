//! Waits until the page server has taken the base backup and has followed up to where the server was then, with a bar;
//! then asks the process to stop.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::ProgressBar;
use pageserver::api::{Handle, Phase, Status};
use pageserver::connection::Connection;
use pg::lsn::Lsn;
use runtime::app::{self, App, Applet, LocalFuture, Node, Stop};
use runtime::clock::{self, Instant};
use runtime::executor::{self, JoinHandle};

use super::{Origin, failed};
use crate::error::{Error, Result};
use crate::limits::{IMPORT_CONNECT_WAIT, IMPORT_STALL};
use crate::output;

/// How often to look.
const POLL: Duration = Duration::from_millis(100);

/// How it ended well.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub status: Status,
    /// The server's end of WAL when the following began; all up to there is here.
    pub caught_up_with: Lsn,
}

/// What the run yields, once it is over.
#[derive(Clone, Default)]
pub(super) struct Slot(Arc<OnceLock<Result<Outcome>>>);

impl Slot {
    pub(super) fn get(&self) -> Option<&Result<Outcome>> {
        self.0.get()
    }

    fn put(&self, outcome: Result<Outcome>) {
        // There is one who waits, and it puts once.
        let _first = self.0.set(outcome);
    }
}

/// After the page server's App.
pub(super) fn app(pages: Handle, origin: Origin) -> (App, Slot) {
    let slot = Slot::default();
    let shared = slot.clone();
    let make = move |_node: &Node| Follow {
        pages: pages.clone(),
        origin: origin.clone(),
        slot: shared.clone(),
        task: RefCell::default(),
    };
    (App::new("import", make), slot)
}

struct Follow {
    pages: Handle,
    origin: Origin,
    slot: Slot,
    task: RefCell<Option<JoinHandle<()>>>,
}

impl Applet for Follow {
    fn name(&self) -> &'static str {
        "import"
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, std::result::Result<(), app::Error>> {
        Box::pin(async {
            if node.index == 0 {
                let (pages, origin) = (self.pages.clone(), self.origin.clone());
                let (slot, control) = (self.slot.clone(), node.control.clone());
                let task = executor::spawn(async move {
                    slot.put(follow(&pages, &origin).await);
                    control.stop(Stop::Now);
                });
                *self.task.borrow_mut() = Some(task);
            }
            Ok(())
        })
    }

    fn stop<'a>(&'a self, _how: Stop) -> LocalFuture<'a, ()> {
        Box::pin(async {
            if let Some(task) = self.task.take() {
                task.abort();
            }
        })
    }
}

async fn follow(pages: &Handle, origin: &Origin) -> Result<Outcome> {
    let mut shown = Shown::default();
    let mut stall = Stall::new();
    let mut target = None;
    loop {
        let Some(status) = pages.status().await else {
            return Err(Error::new("the page server does not run"));
        };
        shown.show(&status, target);
        if status.phase == Phase::Failed || stall.is_too_long(&status) {
            shown.clear();
            return Err(stopped(&status));
        }
        if status.phase == Phase::Streaming {
            match target {
                None => target = Some(end_of(origin).await?),
                Some(end) if has(&status, end) => {
                    shown.clear();
                    return Ok(Outcome { status, caught_up_with: end });
                }
                Some(_) => {}
            }
        }
        clock::sleep(POLL).await;
    }
}

/// Where the server's WAL ends now.
async fn end_of(origin: &Origin) -> Result<Lsn> {
    let login = origin.login("")?;
    let asked = async {
        let mut connection = Connection::connect(&login).await?;
        Ok(connection.identify_system().await?.flushed)
    };
    let late = |_late| Error::new("the server does not tell the end of its WAL in time");
    let answer = clock::timeout(IMPORT_CONNECT_WAIT, asked).await.map_err(late)?;
    answer.map_err(|error: pageserver::error::Error| failed(&error))
}

/// Whether all up to `end` is durable here. What is behind the last whole record cannot be asked for, nor need it be.
fn has(status: &Status, end: Lsn) -> bool {
    lsn(status.flushed_lsn.as_ref()).is_some_and(|durable| durable >= end)
}

fn lsn(text: Option<&String>) -> Option<Lsn> {
    text?.parse().ok()
}

/// Why there is no going on.
fn stopped(status: &Status) -> Error {
    let Some(problem) = &status.error else {
        let seconds = IMPORT_STALL.as_secs();
        return Error::new(format!("nothing has come from the server for {seconds} s"))
            .hint("the same command goes on");
    };
    let error = Error::new(problem.message.clone());
    let hint = problem.hint.clone();
    error.hint(hint.unwrap_or_else(|| "the same command goes on".to_owned()))
}

/// Notices that nothing happens any more.
struct Stall {
    since: Instant,
    seen: (u64, Option<String>),
}

impl Stall {
    fn new() -> Self {
        Self { since: clock::now(), seen: (0, None) }
    }

    fn is_too_long(&mut self, status: &Status) -> bool {
        let bytes = status.backup.map_or(0, |backup| backup.bytes_done);
        let seen = (bytes, status.flushed_lsn.clone());
        if seen != self.seen {
            (self.seen, self.since) = (seen, clock::now());
        }
        clock::now() - self.since > IMPORT_STALL
    }
}

/// The bar: of the base backup, then of the WAL since.
#[derive(Default)]
struct Shown {
    backup: Option<ProgressBar>,
    wal: Option<(Lsn, ProgressBar)>,
    said: Option<String>,
}

impl Shown {
    fn show(&mut self, status: &Status, target: Option<Lsn>) {
        if let Some(problem) = &status.error
            && self.said.as_ref() != Some(&problem.message)
        {
            output::note(format!("waiting: {}", problem.message));
            self.said = Some(problem.message.clone());
        }
        match (status.backup, &self.backup) {
            (Some(backup), _) => {
                let total = backup.bytes_total.max(backup.bytes_done) >> 10;
                let new = || output::progress(total, "base backup", "KiB");
                let bar = self.backup.get_or_insert_with(new);
                bar.set_length(total);
                bar.set_position(backup.bytes_done >> 10);
            }
            (None, Some(bar)) => bar.finish_and_clear(),
            (None, None) => {}
        }
        if let (Some(end), Some(here)) = (target, lsn(status.flushed_lsn.as_ref())) {
            let (from, bar) = self.wal.get_or_insert_with(|| {
                (here, output::progress(end.bytes_since(here) >> 10, "WAL since", "KiB"))
            });
            bar.set_position(here.bytes_since(*from) >> 10);
        }
    }

    fn clear(&self) {
        for bar in self.backup.iter().chain(self.wal.iter().map(|(_, bar)| bar)) {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_caught_up_when_all_is_durable() {
        let at =
            |flushed: &str| Status { flushed_lsn: Some(flushed.to_owned()), ..Status::default() };
        assert!(!has(&at("0/3000000"), Lsn(0x300_0001)));
        assert!(has(&at("0/3000000"), Lsn(0x300_0000)));
        assert!(!has(&Status::default(), Lsn(1)));
    }
}
