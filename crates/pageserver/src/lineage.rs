//! Which timeline of Postgres' own WAL is on, by position: a standby that is promoted goes on under the next number.
//!
//! History files are Postgres' (`timeline.c`): a line for each timeline before, with its number, the position where it was
//! left, and why. One in the WAL directory means that we have followed there.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use pg::lsn::Lsn;
use runtime::fs;

use crate::error::Error;

/// What a history file's name ends with.
const SUFFIX: &str = ".history";

/// The timelines of one stretch of WAL. Clones share it.
#[derive(Clone, Debug)]
pub struct Lineage(Rc<RefCell<Vec<Line>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    id: u32,
    from: Lsn,
}

impl Lineage {
    /// One timeline, whatever came before it.
    pub fn new(id: u32) -> Lineage {
        Lineage(Rc::new(RefCell::new(vec![Line { id, from: Lsn::INVALID }])))
    }

    /// That of a branch which leaves this one at `at`: the same up to there.
    pub fn of_branch(&self, at: Lsn) -> Lineage {
        let lines = self.0.borrow().iter().filter(|line| line.from < at).copied().collect();
        Lineage(Rc::new(RefCell::new(lines)))
    }

    /// From timeline `id` on, as the newest history file in `directory` has it.
    pub async fn read(directory: &Path, id: u32) -> Result<Lineage, Error> {
        let lineage = Lineage::new(id);
        let failed = |source| Error::file("read directory", directory, source);
        let mut newest = id;
        for entry in fs::read_dir(directory).await.map_err(failed)? {
            let name = entry.name.to_string_lossy();
            let number = name.strip_suffix(SUFFIX).and_then(|id| u32::from_str_radix(id, 16).ok());
            newest = newest.max(number.unwrap_or(0));
        }
        if newest > id {
            let path = directory.join(file_name(newest));
            let read = fs::read(&path).await;
            let bytes = read.map_err(|source| Error::file("read", &path, source))?;
            let history = History::parse(&bytes).ok_or_else(|| {
                Error::Damaged(format!("timeline history \"{}\" is damaged", path.display()))
            })?;
            for (number, left) in history.left.iter().enumerate() {
                let next = history.left.get(number + 1).map_or(newest, |next| next.id);
                if left.id >= id {
                    lineage.switch(next, left.from);
                }
            }
        }
        Ok(lineage)
    }

    /// The timeline of the WAL from `lsn` on.
    pub fn at(&self, lsn: Lsn) -> u32 {
        self.last(|line| line.from <= lsn)
    }

    /// The timeline that a segment's file bears in its name: the newest that has something in it.
    pub fn of_segment(&self, number: u64, segment_bytes: u32) -> u32 {
        self.last(|line| line.from.segment(segment_bytes) <= number)
    }

    fn last(&self, is_begun: impl Fn(&Line) -> bool) -> u32 {
        let lines = self.0.borrow();
        let begun = lines.iter().rev().find(|line| is_begun(line)).or(lines.first());
        begun.expect("there is always one").id
    }

    /// The timeline that follows this one, and from where on; `None` for the newest.
    pub fn next(&self, id: u32) -> Option<(u32, Lsn)> {
        let lines = self.0.borrow();
        let known = lines.iter().position(|line| line.id == id)?;
        lines.get(known + 1).map(|line| (line.id, line.from))
    }

    pub fn has(&self, id: u32) -> bool {
        self.0.borrow().iter().any(|line| line.id == id)
    }

    /// From `from` on the WAL is on timeline `id`.
    pub fn switch(&self, id: u32, from: Lsn) {
        self.0.borrow_mut().push(Line { id, from });
    }
}

/// Whether a file of this name is the history of a timeline.
pub(crate) fn is_file_name(name: &str) -> bool {
    let id = name.strip_suffix(SUFFIX).and_then(|id| u32::from_str_radix(id, 16).ok());
    id.is_some_and(|id| file_name(id) == name)
}

/// `00000002.history`.
pub fn file_name(id: u32) -> String {
    format!("{id:08X}{SUFFIX}")
}

/// A history file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    bytes: Vec<u8>,
    /// The timelines before, and where each was left.
    left: Vec<Line>,
    /// Where in `bytes` the line of each ends.
    ends: Vec<usize>,
}

impl History {
    /// `None` if it is not such a file.
    pub fn parse(bytes: &[u8]) -> Option<History> {
        let mut history = History { bytes: bytes.to_vec(), left: Vec::new(), ends: Vec::new() };
        let mut end = 0;
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            end += line.len();
            let line = String::from_utf8_lossy(line);
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.split_ascii_whitespace();
            let (id, from) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            if history.left.last().is_some_and(|last| last.id >= id || last.from > from) {
                return None;
            }
            history.left.push(Line { id, from });
            history.ends.push(end);
        }
        Some(history)
    }

    /// Of the history of timeline `newest`: what follows timeline `id`, from where on, and that one's own history file;
    /// `None` if `id` is not in it.
    pub fn after(&self, id: u32, newest: u32) -> Option<(u32, Lsn, &[u8])> {
        let place = self.left.iter().position(|line| line.id == id)?;
        let next = self.left.get(place + 1).map_or(newest, |line| line.id);
        Some((next, self.left.get(place)?.from, self.bytes.get(..*self.ends.get(place)?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] =
        b"1\t0/3000158\tno recovery target specified\n\n# a word\n2\t0/50000A0\tbefore\n";

    #[test]
    fn a_history_says_what_follows_each_timeline() {
        let history = History::parse(TEXT).expect("it is one");
        let first = &TEXT[..TEXT.iter().position(|&byte| byte == b'\n').expect("a line") + 1];
        assert_eq!(history.after(1, 3), Some((2, Lsn(0x300_0158), first)));
        assert_eq!(history.after(2, 3), Some((3, Lsn(0x500_00A0), TEXT)));
        assert_eq!(history.after(3, 3), None);
        for wrong in [&b"x"[..], b"1", b"1\tx", b"2\t0/2\n1\t0/3\n", b"1\t0/3\n2\t0/2\n"] {
            assert_eq!(History::parse(wrong), None);
        }
    }

    #[test]
    fn positions_and_segments_have_the_timeline_that_wrote_them() {
        let lineage = Lineage::new(1);
        lineage.switch(2, Lsn(0x250_0000));
        let bytes = 1 << 20;
        assert_eq!([0x24F_FFFF, 0x250_0000].map(|lsn| lineage.at(Lsn(lsn))), [1, 2]);
        assert_eq!([0x24, 0x25].map(|number| lineage.of_segment(number, bytes)), [1, 2]);
        assert_eq!(lineage.next(1), Some((2, Lsn(0x250_0000))));
        assert_eq!(lineage.next(2), None);
        lineage.switch(3, Lsn(0x258_0000));
        assert_eq!(lineage.of_segment(0x25, bytes), 3);
        let branch = lineage.of_branch(Lsn(0x255_0000));
        assert_eq!(branch.of_segment(0x25, bytes), 2);
        assert!(lineage.has(3) && !branch.has(3));
    }
}
