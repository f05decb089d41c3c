//! Where `main` lives, a plain data directory or a mount over the page server: chosen at the first start, on record from
//! then on, and how it gets from the one to the other.
//!
//! 1. A directory without a record stays one: nothing moves unasked.
//! 2. On the way to a mount the directory's server runs until the page server has all of its WAL. Until that is so, and
//!    on record, nothing has moved: any start may begin anew or turn back.
//! 3. From the record on, the directory's server never runs again. It is removed (or put aside, if it was not made for
//!    this) once a compute serves `main`; that is on record, too, so that nothing else is ever removed.

use std::fmt;
use std::path::{Path, PathBuf};

use runtime::fs::blocking as fs;

use crate::config::Place;
use crate::error::{Error, Result, While};

/// Name of the record in the instance's folder.
const FILE: &str = "place";

/// What is on record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A directory that the first start makes, to be left for a mount.
    Founding,
    /// A directory that was there before, to be left for a mount.
    Moving,
    /// On a mount; the directory that was made for the first start is to be removed.
    Founded,
    /// On a mount; the directory that was there before is to be put aside.
    Moved,
    /// On a mount.
    Mount,
}

impl Stage {
    const ALL: [(Self, &str); 5] = [
        (Self::Founding, "directory, to be made a mount"),
        (Self::Moving, "directory, to be moved to a mount"),
        (Self::Founded, "mount, directory to be removed"),
        (Self::Moved, "mount, directory to be put aside"),
        (Self::Mount, "mount"),
    ];

    fn text(self) -> &'static str {
        Self::ALL.iter().find(|(stage, _)| *stage == self).map_or("", |(_, text)| text)
    }

    /// Whether the directory's server must not run any more.
    #[must_use]
    pub fn is_mount(self) -> bool {
        matches!(self, Self::Founded | Self::Moved | Self::Mount)
    }

    /// The one after the directory's server has been shut down for good.
    #[must_use]
    pub fn handed_over(self) -> Self {
        match self {
            Self::Founding => Self::Founded,
            Self::Moving => Self::Moved,
            done => done,
        }
    }
}

/// The record of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    path: PathBuf,
}

impl Record {
    #[must_use]
    pub fn of(folder: &Path) -> Self {
        Self { path: folder.join(FILE) }
    }

    /// `None`: a plain directory, or nothing yet.
    pub fn read(&self) -> Result<Option<Stage>> {
        let shown = self.path.display();
        if !fs::exists(&self.path) {
            return Ok(None);
        }
        let text = fs::read_to_string(&self.path);
        let text = text.or_fail(format_args!("could not read \"{shown}\""))?;
        let known = Stage::ALL.iter().find(|(_, name)| *name == text.trim());
        let unknown = || Error::new(format!("\"{shown}\" says \"{}\"", text.trim()));
        let hint = "a newer Howdah may have written it";
        known.map(|(stage, _)| Some(*stage)).ok_or_else(|| unknown().hint(hint))
    }

    /// Makes it so, durably.
    pub fn write(&self, stage: Stage) -> Result<()> {
        let written = fs::write_atomic(&self.path, format!("{}\n", stage.text()).as_bytes());
        written.or_fail(format_args!("could not write \"{}\"", self.path.display()))
    }

    /// It is a plain directory after all.
    pub fn remove(&self) -> Result<()> {
        let removed = fs::remove_file(&self.path);
        removed.or_fail(format_args!("could not remove \"{}\"", self.path.display()))
    }
}

/// What decides.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    pub wanted: Place,
    pub stage: Option<Stage>,
    /// There is a data directory.
    pub has_directory: bool,
    /// Why there is none elsewhere, with `postgres.data_dir`, or of another server, with `pageserver.server`.
    pub tied: Option<&'a str>,
    /// Or why not.
    pub can_mount: std::result::Result<(), &'a str>,
}

/// Where `main` is to be, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// `None`: in a plain directory.
    pub stage: Option<Stage>,
    pub why: String,
}

impl Choice {
    /// One word.
    #[must_use]
    pub fn place(&self) -> &'static str {
        if self.stage.is_some() { "mount" } else { "directory" }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.stage {
            Some(_) => write!(formatter, "a compute over the page server ({})", self.why),
            None => write!(formatter, "in a data directory ({})", self.why),
        }
    }
}

impl Question<'_> {
    /// # Errors
    /// When what is wanted cannot be.
    pub fn answer(&self) -> Result<Choice> {
        let chosen = |stage, why: &str| Ok(Choice { stage, why: why.to_owned() });
        match (self.wanted, self.stage) {
            (Place::Directory, Some(stage)) if stage.is_mount() => Err(Error::new(
                "postgres.place is \"directory\", but \"main\" lives in the page server",
            )
            .hint("howdah restore makes a data directory of it: restore it to DIR/postgres and run howdah up --dir DIR")),
            (Place::Directory, _) => chosen(None, "postgres.place says so"),
            (wanted, Some(stage)) if stage.is_mount() => match (wanted, self.can_mount) {
                (Place::Mount, Err(why)) => Err(no_mount(why)),
                (_, Err(why)) => chosen(Some(stage), &format!("it lives in the page server; without a mount its server is restored at each start: {why}")),
                _ => chosen(Some(stage), "it lives in the page server"),
            },
            (Place::Mount, stage) => match (self.tied, self.can_mount) {
                (Some(tied), _) => Err(Error::new("postgres.place is \"mount\", which does not go with ".to_owned() + tied)),
                (None, Err(why)) => Err(no_mount(why)),
                (None, Ok(())) => chosen(Some(self.begun(stage)), "postgres.place says so"),
            },
            (Place::Auto, stage) => match (self.tied, self.can_mount) {
                (Some(tied), _) => chosen(None, &format!("{tied} is set")),
                (None, Err(why)) => chosen(None, &format!("no mount: {why}")),
                (None, Ok(())) if stage.is_none() && self.has_directory => chosen(
                    None,
                    "it is there already; postgres.place = \"mount\" moves it",
                ),
                (None, Ok(())) => chosen(Some(self.begun(stage)), "this machine allows it"),
            },
        }
    }

    fn begun(&self, stage: Option<Stage>) -> Stage {
        let anew = if self.has_directory { Stage::Moving } else { Stage::Founding };
        stage.unwrap_or(anew)
    }
}

fn no_mount(why: &str) -> Error {
    Error::new(format!("\"main\" cannot be on a mount: {why}"))
        .hint("set postgres.place to \"auto\", or run howdah up as root where /dev/fuse is")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(
        wanted: Place,
        stage: Option<Stage>,
        has_directory: bool,
        can_mount: bool,
    ) -> Result<Option<Stage>> {
        let can_mount = if can_mount { Ok(()) } else { Err("no") };
        let question = Question { wanted, stage, has_directory, tied: None, can_mount };
        question.answer().map(|choice| choice.stage)
    }

    #[test]
    fn nothing_moves_unasked_and_nothing_that_has_moved_goes_back() {
        let all = Stage::ALL.map(|(stage, _)| stage);
        assert_eq!(ask(Place::Auto, None, true, true), Ok(None));
        assert_eq!(ask(Place::Auto, None, false, false), Ok(None));
        assert_eq!(ask(Place::Auto, None, false, true), Ok(Some(Stage::Founding)));
        assert_eq!(ask(Place::Mount, None, true, true), Ok(Some(Stage::Moving)));
        assert_eq!(ask(Place::Mount, None, false, true), Ok(Some(Stage::Founding)));
        assert!(ask(Place::Mount, None, false, false).is_err());
        for stage in all {
            assert_eq!(ask(Place::Auto, Some(stage), true, true), Ok(Some(stage)));
            assert_eq!(ask(Place::Mount, Some(stage), true, true), Ok(Some(stage)));
            assert!(ask(Place::Mount, Some(stage), true, false).is_err());
            let turned_back = ask(Place::Auto, Some(stage), true, false);
            assert_eq!(turned_back, Ok(Some(stage).filter(|stage| stage.is_mount())));
            assert_eq!(ask(Place::Directory, Some(stage), true, true).is_err(), stage.is_mount());
        }
        assert_eq!(ask(Place::Directory, None, false, true), Ok(None));
    }

    #[test]
    fn a_directory_elsewhere_is_no_mount() {
        let question = Question {
            wanted: Place::Auto,
            stage: None,
            has_directory: false,
            tied: Some("postgres.data_dir"),
            can_mount: Ok(()),
        };
        let choice = question.answer().expect("it can be");
        assert_eq!((choice.stage, &*choice.why), (None, "postgres.data_dir is set"));
        assert!(Question { wanted: Place::Mount, ..question }.answer().is_err());
    }

    #[test]
    fn every_stage_comes_back_from_its_record() {
        let folder = std::env::temp_dir().join(format!("howdah-place-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("there is room");
        let record = Record::of(&folder);
        assert_eq!(record.read(), Ok(None));
        for (stage, _) in Stage::ALL {
            record.write(stage).expect("it is ours");
            assert_eq!(record.read(), Ok(Some(stage)));
        }
        fs::write_atomic(&record.path, b"mountain\n").expect("it is ours");
        assert!(record.read().is_err());
        record.remove().expect("it is ours");
        fs::remove_dir_all(&folder).expect("it is ours");
    }
}
