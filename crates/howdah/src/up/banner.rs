//! Waits until everything is healthy, showing the progress of the first base backup, then says what runs where
//! and what to try.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::ProgressBar;
use pageserver::api::{Phase, Status};
use runtime::app::{self, App, Applet, LocalFuture, Node, Stop};
use runtime::clock;
use runtime::executor::{self, JoinHandle};
use serde_json::json;

use crate::limits::FIRST_BACKUP_WAIT;
use crate::node::Parts;
use crate::output;
use crate::postgres::place::Choice;

/// How often to look.
const POLL: Duration = Duration::from_millis(50);

/// What there is to say.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) directory: PathBuf,
    /// Of the server.
    pub(super) version: String,
    /// Folder of the server's unix socket.
    pub(super) socket: PathBuf,
    /// The server's TCP port; 0 for none.
    pub(super) port: u16,
    /// Where `main` lives.
    pub(super) choice: Choice,
    /// One line for a program instead.
    pub(super) json: bool,
    pub(super) parts: Parts,
}

pub(super) fn app(facts: Facts) -> App {
    App::new("up", move |_node| Banner { facts: facts.clone(), task: RefCell::default() })
}

/// The last App to start: when it does, all the others have.
struct Banner {
    facts: Facts,
    task: RefCell<Option<JoinHandle<()>>>,
}

impl Applet for Banner {
    fn name(&self) -> &'static str {
        "up"
    }

    fn start<'a>(&'a self, node: &'a Node) -> LocalFuture<'a, Result<(), app::Error>> {
        Box::pin(async {
            if node.index == 0 {
                let facts = self.facts.clone();
                *self.task.borrow_mut() = Some(executor::spawn(announce(facts)));
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

async fn announce(facts: Facts) {
    let status = followed(&facts.parts).await;
    if facts.json {
        output::json(&facts.json(status.as_ref()));
    } else {
        output::line(facts.text(status.as_ref()));
    }
    output::flush();
}

/// Waits until the page server follows the server; its state then.
async fn followed(parts: &Parts) -> Option<Status> {
    let pages = parts.pages.as_ref()?;
    let deadline = clock::now() + FIRST_BACKUP_WAIT;
    let mut bar: Option<ProgressBar> = None;
    loop {
        let status = pages.status().await?;
        if let Some(backup) = status.backup {
            let total = backup.bytes_total.max(backup.bytes_done);
            let bar = bar.get_or_insert_with(|| output::progress(total, "base backup", "bytes"));
            bar.set_length(total);
            bar.set_position(backup.bytes_done);
        }
        if matches!(status.phase, Phase::Streaming | Phase::Failed | Phase::Stopped)
            || clock::now() > deadline
        {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
            return Some(status);
        }
        clock::sleep(POLL).await;
    }
}

impl Facts {
    fn text(&self, pages: Option<&Status>) -> String {
        let pooler = self.parts.pooler_address();
        let api = self.parts.api_address();
        let mut rows = vec![format!("Howdah runs in {}", self.directory.display())];
        let mut row = |name: &str, place: String| rows.push(format!("  {name:<12} {place}"));
        row("pooler", format!("{pooler}  (clients connect here)"));
        let tcp =
            if self.port == 0 { String::new() } else { format!(" and 127.0.0.1:{}", self.port) };
        row("PostgreSQL", format!("{} on {}{tcp}", self.version, self.socket.display()));
        row("main", self.choice.to_string());
        row("page server", pages.map_or_else(|| "not running".to_owned(), page_server));
        row("API", api.as_ref().map_or_else(|| "off".to_owned(), |api| format!("http://{api}")));
        rows.push("Try:".to_owned());
        let (host, port) = pooler.rsplit_once(':').unwrap_or((&pooler, "6432"));
        rows.push(format!("  psql -h {host} -p {port} -U postgres postgres"));
        let named = api
            .filter(|api| api != "127.0.0.1:6480")
            .map_or_else(String::new, |api| format!("--api {api} "));
        rows.push(format!("  howdah {named}branch create before"));
        rows.push(format!("  psql -h {host} -p {port} -U postgres postgres@before"));
        rows.push("Ctrl-C stops everything.".to_owned());
        rows.join("\n")
    }

    fn json(&self, pages: Option<&Status>) -> serde_json::Value {
        json!({
            "pid": std::process::id(),
            "directory": self.directory.display().to_string(),
            "pooler": self.parts.pooler_address(),
            "api": self.parts.api_address(),
            "page_service": pages.map(|pages| &pages.listen),
            "page_server_phase": pages.map(|pages| pages.phase),
            "postgres": {
                "version": self.version,
                "socket_directory": self.socket.display().to_string(),
                "port": self.port,
                "place": self.choice.place(),
                "place_reason": self.choice.why,
            },
        })
    }
}

fn page_server(status: &Status) -> String {
    match &status.error {
        Some(problem) => format!("{}, not following: {}", status.listen, problem.message),
        None => {
            let lsn = status.ingested_lsn.as_deref().unwrap_or("nothing yet");
            format!("{}  (follows the WAL, now at {lsn})", status.listen)
        }
    }
}
