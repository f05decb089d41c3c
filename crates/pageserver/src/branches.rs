//! Branches: which there are, made and deleted.
//!
//! A branch is a name, the timeline it comes from, and an LSN; its folder holds what changes on it. The list of branches is
//! one small file, written atomically: a branch exists if it is in there, whatever folders there are.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use pg::lsn::Lsn;
use pg::wire::replication::POSTGRES_EPOCH_UNIX_MICROS as EPOCH;
use runtime::{clock, fs};
use serde::{Deserialize, Serialize};
use storage::store::TimelineStore;

use crate::attachment::Record;
use crate::catalog::Mark;
use crate::error::{Error, PageError};
use crate::limits::{BRANCH_NAME_BYTES_MAX, BRANCHES_MAX, CLOCK_AHEAD_MICROS_MAX};
use crate::sealed;
use crate::settings::Settings;
use crate::time;
use crate::timeline::{self, MAIN, Timeline};

mod present;
mod writer;

pub use present::Present;
use writer::Writer;
pub use writer::{Attached, Writing};

/// Name of the file in the page server's directory.
pub const FILE_NAME: &str = "branches";
const TITLE: &str = "howdah branches 1";

/// Where a branch comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    pub name: String,
    pub from: String,
    pub at: String,
}

/// Why a branch cannot be made or deleted.
#[derive(Debug)]
pub enum BranchError {
    /// What was asked for makes no sense here: a sentence, and a hint.
    Refused(String, &'static str),
    /// A file of ours.
    File(Error),
}

impl From<Error> for BranchError {
    fn from(error: Error) -> BranchError {
        BranchError::File(error)
    }
}

/// The timelines of one cluster: the one that follows Postgres, and its branches.
pub struct Branches {
    directory: PathBuf,
    settings: Settings,
    /// By name; `main` is among them.
    timelines: RefCell<BTreeMap<String, Rc<Timeline>>>,
    /// By name.
    writers: RefCell<BTreeMap<String, Rc<Writer>>>,
    /// The list is being changed.
    changing: Cell<bool>,
}

impl Branches {
    /// Opens all branches of `main`.
    pub async fn open(
        directory: &Path,
        settings: &Settings,
        main: Rc<Timeline>,
    ) -> Result<Branches, Error> {
        let writer = Writer::new(Record::read(&main.layers).await?);
        let branches = Branches {
            directory: directory.to_owned(),
            settings: settings.clone(),
            timelines: RefCell::new(BTreeMap::from([(MAIN.to_owned(), main)])),
            writers: RefCell::new(BTreeMap::from([(MAIN.to_owned(), Rc::new(writer))])),
            changing: Cell::new(false),
        };
        // In the file, a branch comes after the one it comes from.
        for point in read(&directory.join(FILE_NAME)).await? {
            let damaged =
                || Error::Damaged(format!("branch \"{}\" comes from nowhere", point.name));
            let from = branches.get(&point.from).ok_or_else(damaged)?;
            let at = point.at.parse().map_err(|_invalid| damaged())?;
            let branch =
                Timeline::open_branch(directory, &point.name, (from, at), settings).await?;
            let writer = Rc::new(Writer::new(Record::read(&branch.layers).await?));
            branches.writers.borrow_mut().insert(point.name.clone(), writer);
            branches.timelines.borrow_mut().insert(point.name, Rc::new(branch));
        }
        Ok(branches)
    }

    /// The timeline of this name.
    pub fn get(&self, name: &str) -> Option<Rc<Timeline>> {
        self.timelines.borrow().get(name).cloned()
    }

    /// The same, or why there is none.
    pub fn find(&self, name: &str) -> Result<Rc<Timeline>, BranchError> {
        self.get(name).ok_or_else(|| unknown(name))
    }

    /// All timelines, by name.
    pub fn all(&self) -> Vec<Rc<Timeline>> {
        self.timelines.borrow().values().cloned().collect()
    }

    /// Makes a branch; it is durable when this returns. What is told with it concerns the moment it was made at.
    pub async fn create(
        &self,
        name: &str,
        from: &str,
        at: At,
    ) -> Result<(Rc<Timeline>, Present), BranchError> {
        let from = self.find(from)?;
        let (at, present) = self.lsn_of(&from, at).await?;
        self.check(name, &from, at)?;
        // Until the branch itself keeps it.
        let _given = from.pin(at).map_err(not_kept)?;
        // Where a compute's own WAL can begin.
        let end = from.last_record(at).await?.map(|last| last.end.max(from.manifest.end));
        let at = end.filter(|end| from.check_kept(*end).is_ok()).unwrap_or(at);
        let _point = from.pin(at).map_err(not_kept)?;
        let _changing = self.begin_change()?;
        // Meanwhile somebody may have made one of this name, or deleted the one that it is to come from.
        self.check(name, &from, at)?;
        if !self.get(&from.name).is_some_and(|known| Rc::ptr_eq(&known, &from)) {
            return Err(unknown(&from.name));
        }
        let own = self.directory.join(timeline::FOLDER).join(name);
        remove_folder(&own).await?;
        let made = fs::create_dir_all(&own).await;
        made.map_err(|source| Error::file("create directory", &own, source))?;
        let created = TimelineStore::create(&own).await;
        drop(created.map_err(|source| Error::file("write layers in", &own, source))?);
        // Its name, before it is in the list.
        let folders = self.directory.join(timeline::FOLDER);
        let synced = fs::sync_dir(&folders).await;
        synced.map_err(|source| Error::file("sync directory", &folders, source))?;
        let settings = &self.settings;
        let branch = Timeline::open_branch(&self.directory, name, (from, at), settings).await?;
        let branch = Rc::new(branch);
        self.write_list(|all| all.insert(name.to_owned(), Rc::clone(&branch))).await?;
        let writer = Rc::new(Writer::new(Record::default()));
        self.writers.borrow_mut().insert(name.to_owned(), writer);
        tracing::info!(branch = name, at = %at, "branch made");
        Ok((branch, present))
    }

    /// Deletes a branch that no other comes from.
    pub async fn delete(&self, name: &str) -> Result<(), BranchError> {
        if name == MAIN {
            let message = "\"main\" cannot be deleted: it follows Postgres".to_owned();
            return Err(BranchError::Refused(message, "name a branch"));
        }
        let deleted = self.find(name)?;
        let comes_from_it = |timeline: &Rc<Timeline>| {
            timeline.ancestor.as_ref().is_some_and(|(from, _)| from.name == name)
        };
        if let Some(child) = self.all().into_iter().find(comes_from_it) {
            let message = format!("branch \"{}\" comes from \"{name}\"", child.name);
            return Err(BranchError::Refused(message, "delete that one first"));
        }
        let _changing = self.begin_change()?;
        let writer = self.writers.borrow().get(name).cloned();
        let _turn = writer.as_ref().map(|writer| writer.begin_change()).transpose()?;
        if let Some(writer) = &writer {
            writer.stop().await;
        }
        if let Err(error) = self.write_list(|all| all.remove(name)).await {
            // It stays, with whom it has.
            if let Some(writer) = &writer {
                writer.start(&deleted, &self.settings);
            }
            return Err(error.into());
        }
        self.writers.borrow_mut().remove(name);
        // Whoever is at work on its layers is not to write into a folder that may soon be another branch's.
        deleted.store.close().await;
        remove_folder(&self.directory.join(timeline::FOLDER).join(name)).await?;
        tracing::info!(branch = name, "branch deleted");
        Ok(())
    }

    /// Which LSN of a timeline is meant, and whether everything that could be meant is here.
    pub async fn lsn_of(&self, timeline: &Timeline, at: At) -> Result<(Lsn, Present), BranchError> {
        let present = self.catch_up_to(timeline, &at).await.map_err(|error| match error {
            PageError::NotYet { .. } => BranchError::Refused(
                error.to_string(),
                "howdah timeline status shows how far it is behind; name an earlier LSN, or wait",
            ),
            error => BranchError::Refused(error.to_string(), "name an LSN"),
        })?;
        Ok((lsn_here(timeline, at)?, present))
    }

    /// What is wrong with making such a branch, if anything is.
    fn check(&self, name: &str, from: &Timeline, at: Lsn) -> Result<(), BranchError> {
        let refused = |message, hint| Err(BranchError::Refused(message, hint));
        if !is_name(name) {
            let hint = "a name begins with a letter or digit; it has at most 60 letters, digits, or any of - _ .";
            return refused(format!("\"{name}\" cannot be the name of a branch"), hint);
        }
        if self.get(name).is_some() {
            return refused(format!("there is a branch \"{name}\" already"), "take another name");
        }
        if self.timelines.borrow().len() > BRANCHES_MAX {
            return refused(format!("there are {BRANCHES_MAX} branches already"), "delete some");
        }
        let newest = from.ingested();
        if at > newest {
            let message = format!("LSN {at} is beyond {newest}, the end of \"{}\"", from.name);
            return refused(message, "howdah timeline status shows what is kept");
        }
        from.check_kept(at).map_err(not_kept)
    }

    /// The list as the file has it.
    pub(crate) fn list_bytes(&self) -> Vec<u8> {
        to_bytes(&self.timelines.borrow())
    }

    /// One change at a time.
    fn begin_change(&self) -> Result<Changing<'_>, BranchError> {
        if self.changing.replace(true) {
            let message = "another branch is being made or deleted".to_owned();
            return Err(BranchError::Refused(message, "try again"));
        }
        Ok(Changing(&self.changing))
    }

    /// Changes the map and writes the list; what cannot be written is not so.
    async fn write_list(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Rc<Timeline>>) -> Option<Rc<Timeline>>,
    ) -> Result<(), Error> {
        let mut changed = self.timelines.borrow().clone();
        change(&mut changed);
        let path = self.directory.join(FILE_NAME);
        let written = fs::write_atomic(&path, to_bytes(&changed)).await;
        written.map_err(|source| Error::file("write", &path, source))?;
        *self.timelines.borrow_mut() = changed;
        Ok(())
    }
}

/// Ends a change of the list when it goes.
struct Changing<'b>(&'b Cell<bool>);

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// A moment of a timeline, as one can name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum At {
    Latest,
    Lsn(Lsn),
    /// Microseconds since 2000-01-01 UTC: the last commit at or before then.
    Time(i64),
    RestorePoint(String),
}

impl At {
    /// An LSN, a time (RFC 3339), or else the name of a restore point; nothing or `now` for the latest.
    pub fn parse(text: &str) -> At {
        if text.is_empty() || text == "now" {
            return At::Latest;
        }
        if let Ok(lsn) = text.parse() {
            return At::Lsn(lsn);
        }
        match time::parse(text) {
            Some(micros) => At::Time(micros),
            None => At::RestorePoint(text.to_owned()),
        }
    }
}

/// Which LSN of what has arrived is meant.
fn lsn_here(timeline: &Timeline, at: At) -> Result<Lsn, BranchError> {
    let catalog = timeline.catalog.borrow();
    let newest = timeline.ingested();
    match at {
        At::Latest => Ok(newest),
        // In the middle of the newest record: what is whole counts.
        At::Lsn(lsn) if timeline.has_arrived(lsn) => Ok(lsn.min(newest)),
        At::Lsn(lsn) => Ok(lsn),
        At::Time(time) if time > clock::wall_micros() - EPOCH + CLOCK_AHEAD_MICROS_MAX => {
            let message = format!("{} is still to come", time::format(time));
            Err(BranchError::Refused(message, "leave the time out for the newest moment"))
        }
        At::Time(time) => {
            let oldest = timeline.oldest();
            // What was committed before the oldest moment that can be read counts only if it is the last such.
            let is_kept = |mark: &Mark| {
                mark.lsn >= oldest || catalog.time_at(oldest).is_none_or(|last| last <= time)
            };
            match catalog.mark_at(time, newest).filter(is_kept) {
                Some(mark) => Ok(mark.lsn.max(oldest)),
                None => Err(BranchError::Refused(
                    format!("nothing is known of that time on branch \"{}\"", timeline.name),
                    "it lies before the first commit that is kept",
                )),
            }
        }
        At::RestorePoint(name) => match catalog.restore_point(&name, newest) {
            Some(mark) => Ok(mark.lsn),
            None => Err(BranchError::Refused(
                format!("there is no restore point \"{name}\" on branch \"{}\"", timeline.name),
                "give an LSN, a time such as 2026-11-19T10:00:00Z, or the name of a restore point",
            )),
        },
    }
}

fn not_kept(error: PageError) -> BranchError {
    BranchError::Refused(error.to_string(), "howdah timeline status shows what is kept")
}

fn unknown(name: &str) -> BranchError {
    let message = format!("there is no branch \"{name}\"");
    BranchError::Refused(message, "howdah branch list shows what there is")
}

fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.';
    let begins = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    begins && name.len() <= BRANCH_NAME_BYTES_MAX && name.chars().all(allowed)
}

async fn remove_folder(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path).await {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove directory", path, source))
        }
        _ => Ok(()),
    }
}

/// The list as a file has it; each branch after the one it comes from.
fn to_bytes(timelines: &BTreeMap<String, Rc<Timeline>>) -> Vec<u8> {
    let mut points: Vec<(usize, Point)> = timelines
        .values()
        .filter_map(|timeline| {
            let (from, at) = timeline.ancestor.as_ref()?;
            let (name, from) = (timeline.name.clone(), from.name.clone());
            Some((timeline.generation(), Point { name, from, at: at.to_string() }))
        })
        .collect();
    points.sort_by_key(|(generation, _)| *generation);
    let points: Vec<Point> = points.into_iter().map(|(_, point)| point).collect();
    sealed::seal(TITLE, &points)
}

async fn read(path: &Path) -> Result<Vec<Point>, Error> {
    let bytes = match fs::read(path).await {
        Ok(bytes) => bytes,
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::file("read", path, source)),
    };
    sealed::open(TITLE, &bytes).ok_or_else(|| {
        Error::Damaged(format!("list of branches \"{}\" is damaged", path.display()))
    })
}

/// The branches in a list's bytes: name, whom they come from, where; each after the one it comes from.
pub(crate) fn points(bytes: &[u8]) -> Result<Vec<(String, String, Lsn)>, Error> {
    let points = sealed::open::<Vec<Point>>(TITLE, bytes).and_then(|points| {
        let read = |point: Point| Some((point.name, point.from, point.at.parse().ok()?));
        points.into_iter().map(read).collect()
    });
    points.ok_or_else(|| Error::Damaged("the list of branches is damaged".to_owned()))
}

#[cfg(test)]
mod tests;
