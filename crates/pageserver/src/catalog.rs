//! What a timeline knows by LSN beside pages: every fork's size and existence, whether hint bits were logged, what time
//! it was, restore points.
//!
//! It is in memory as a whole, and written as a whole with each flush. A branch's catalog holds only forks that changed on
//! the branch; the rest it takes from its ancestor, as of the branch point.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use pg::datadir::relation::{Fork, RelNode, RelTag};
use pg::lsn::Lsn;
use pg::oid::Oid;

use crate::bytes::{Reader, Writer};
use crate::history::{History, Origin, is_asked_for, read_tag, write_tag};
use crate::limits::{
    CLOCK_AHEAD_MICROS_MAX, CLOCK_SET_BACK_MICROS_MIN, MARK_INTERVAL_MICROS,
    RESTORE_POINT_NAME_BYTES_MAX, RESTORE_POINTS_MAX,
};

/// First byte of a written catalog. Format 1 had nothing forgotten.
const FORMAT: u64 = 2;
/// Memory that a fork costs beside its history's events.
const FORK_OVERHEAD: usize = 160;

/// Before and after all forks.
const FIRST: RelTag = RelNode::new(0, 0, 0).fork(Fork::Main);
const LAST: RelTag = RelNode::new(u32::MAX, u32::MAX, u32::MAX).fork(Fork::Init);

/// The catalog of one timeline.
#[derive(Debug, Default)]
pub struct Catalog {
    forks: BTreeMap<RelTag, History>,
    /// From each LSN on: whether hint bits are logged.
    hints_logged: Vec<(Lsn, bool)>,
    /// Commits, at most one for each [`MARK_INTERVAL_MICROS`], in the order of their LSNs; clocks may be set back.
    marks: Vec<Mark>,
    restore_points: Vec<RestorePoint>,
    /// Forks that ceased to be up to here may be forgotten. What is stored up to here under the key of a fork that is not
    /// known is of such a one.
    forgotten_through: Lsn,
    ancestor: Option<Ancestor>,
    memory: usize,
}

/// A record and the time in it (microseconds since 2000-01-01 UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The record's end.
    pub lsn: Lsn,
    pub time: i64,
}

/// What `pg_create_restore_point` made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestorePoint {
    pub at: Mark,
    pub name: String,
}

/// Where a branch comes from.
#[derive(Clone, Debug)]
struct Ancestor {
    catalog: Rc<RefCell<Catalog>>,
    at: Lsn,
}

impl Catalog {
    /// The catalog of a branch: as `ancestor` is at `at`.
    pub fn of_branch(ancestor: Rc<RefCell<Catalog>>, at: Lsn) -> Catalog {
        Catalog { ancestor: Some(Ancestor { catalog: ancestor, at }), ..Catalog::default() }
    }

    /// A fork whose file in the base backup has so many blocks.
    pub fn add_base(&mut self, tag: RelTag, blocks: u32) {
        if self.forks.insert(tag, History::with_base(blocks)).is_none() {
            self.memory += FORK_OVERHEAD;
        }
    }

    /// Blocks of a fork as of `lsn`, or `None` if it does not exist then.
    pub fn blocks_at(&self, tag: RelTag, lsn: Lsn) -> Option<u32> {
        if let Some(ancestor) = self.ancestor_at(lsn) {
            return ancestor.borrow().blocks_at(tag, lsn);
        }
        match (self.forks.get(&tag), &self.ancestor) {
            (Some(history), _) => history.blocks_at(lsn),
            (None, Some(Ancestor { catalog, at })) => catalog.borrow().blocks_at(tag, lsn.min(*at)),
            (None, None) => None,
        }
    }

    /// Blocks of a fork as of now.
    pub fn blocks(&self, tag: RelTag) -> Option<u32> {
        self.blocks_at(tag, Lsn::MAX)
    }

    /// Where the content of a block as of `lsn` begins.
    pub fn origin(&self, tag: RelTag, block: u32, lsn: Lsn) -> Origin {
        if let Some(ancestor) = self.ancestor_at(lsn) {
            return ancestor.borrow().origin(tag, block, lsn);
        }
        match (self.forks.get(&tag), &self.ancestor) {
            (Some(history), _) => history.origin(block, lsn),
            (None, Some(Ancestor { catalog, at })) => {
                catalog.borrow().origin(tag, block, lsn.min(*at))
            }
            (None, None) => Origin::Zero(Lsn::INVALID),
        }
    }

    /// Forks that exist as of `lsn`, with their sizes in blocks.
    pub fn forks_at(&self, lsn: Lsn) -> BTreeMap<RelTag, u32> {
        self.forks_between(FIRST, LAST, lsn)
    }

    /// Forks of one database in one tablespace that exist as of now, with their sizes in blocks.
    pub fn forks_of(&self, tablespace: Oid, database: Oid) -> BTreeMap<RelTag, u32> {
        let node = |number| RelNode { spcnode: tablespace, dbnode: database, relnode: Oid(number) };
        self.forks_between(node(0).fork(Fork::Main), node(u32::MAX).fork(Fork::Init), Lsn::MAX)
    }

    /// Whose affair a moment up to the branch point is: what is known of it here may be less.
    fn ancestor_at(&self, lsn: Lsn) -> Option<&Rc<RefCell<Catalog>>> {
        self.ancestor.as_ref().filter(|ancestor| lsn <= ancestor.at).map(|found| &found.catalog)
    }

    fn forks_between(&self, first: RelTag, last: RelTag, lsn: Lsn) -> BTreeMap<RelTag, u32> {
        if let Some(ancestor) = self.ancestor_at(lsn) {
            return ancestor.borrow().forks_between(first, last, lsn);
        }
        let mut found = match &self.ancestor {
            Some(Ancestor { catalog, at }) => {
                catalog.borrow().forks_between(first, last, lsn.min(*at))
            }
            None => BTreeMap::new(),
        };
        for (&tag, history) in self.forks.range(first..=last) {
            match history.blocks_at(lsn) {
                Some(blocks) => found.insert(tag, blocks),
                None => found.remove(&tag),
            };
        }
        found
    }

    /// A fork has at least so many blocks from `lsn` on: nearly always it has.
    pub fn extend(&mut self, tag: RelTag, lsn: Lsn, blocks: u32) {
        let known = self.forks.get(&tag).and_then(History::blocks);
        if known.is_none_or(|known| known < blocks) {
            self.change(tag, |fork| fork.extend(lsn, blocks));
        }
    }

    /// Changes a fork's history; a fork not yet known is made for it.
    pub fn change(&mut self, tag: RelTag, change: impl FnOnce(&mut History)) {
        let history = match self.forks.entry(tag) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let inherited = inherited(self.ancestor.as_ref(), tag).unwrap_or_else(|| {
                    let own = self.forgotten_through;
                    History::after_forgotten(own.max(forgotten(self.ancestor.as_ref())))
                });
                self.memory += FORK_OVERHEAD + inherited.memory();
                place.insert(inherited)
            }
        };
        let before = history.memory();
        change(history);
        self.memory += history.memory() - before;
    }

    /// The history of a fork up to `lsn`, with what came before the branch point; before that it is an ancestor's to say.
    fn history_at(&self, tag: RelTag, lsn: Lsn) -> Option<History> {
        if let Some(ancestor) = self.ancestor_at(lsn) {
            return ancestor.borrow().history_at(tag, lsn);
        }
        match (self.forks.get(&tag), &self.ancestor) {
            (Some(history), _) => Some(history.upto(lsn)),
            (None, Some(Ancestor { catalog, at })) => {
                catalog.borrow().history_at(tag, lsn.min(*at))
            }
            (None, None) => None,
        }
    }

    /// Whether hint bits were logged when the record that ends at `lsn` was written.
    pub fn hints_logged(&self, lsn: Lsn) -> bool {
        let own = self.hints_logged.iter().rev().find(|(from, _)| *from <= lsn);
        match (own, &self.ancestor) {
            (Some((_, logged)), _) => *logged,
            (None, Some(Ancestor { catalog, at })) => catalog.borrow().hints_logged(lsn.min(*at)),
            (None, None) => false,
        }
    }

    pub fn note_hints_logged(&mut self, from: Lsn, logged: bool) {
        self.hints_logged.push((from, logged));
    }

    /// A record that bears a time: a commit, or a restore point.
    pub fn note_time(&mut self, mark: Mark) {
        let due = self.marks.last().is_none_or(|last| {
            let is_later = mark.time >= last.time.saturating_add(MARK_INTERVAL_MICROS);
            let is_set_back = mark.time <= last.time.saturating_sub(CLOCK_SET_BACK_MICROS_MIN);
            (is_later || is_set_back) && mark.lsn > last.lsn
        });
        if due {
            self.marks.push(mark);
            self.memory += size_of::<Mark>();
        }
    }

    /// The newest mark at or before `time`, of the WAL up to `upto`. Clocks may jump: of several, the last.
    pub fn mark_at(&self, time: i64, upto: Lsn) -> Option<Mark> {
        let known = self.marks.partition_point(|mark| mark.lsn <= upto);
        let own = self.marks[..known].iter().rev().find(|mark| mark.time <= time).copied();
        own.or_else(|| {
            let Ancestor { catalog, at } = self.ancestor.as_ref()?;
            catalog.borrow().mark_at(time, upto.min(*at))
        })
    }

    /// The last mark of this timeline, of the WAL up to `upto`, before which every time is at or before `since`. Times beyond
    /// `now` are a clock's that was wrong, and so may be times long past: a moment counts as that old only if none before it
    /// is younger.
    pub fn last_before(&self, since: i64, now: i64, upto: Lsn) -> Option<Mark> {
        let known = &self.marks[..self.marks.partition_point(|mark| mark.lsn <= upto)];
        let latest = now.saturating_add(CLOCK_AHEAD_MICROS_MAX);
        let young = known.iter().position(|mark| since < mark.time && mark.time <= latest);
        let old = &known[..young.unwrap_or(known.len())];
        old.iter().rev().find(|mark| mark.time <= since).copied()
    }

    /// The time of the newest mark at or below `lsn`.
    pub fn time_at(&self, lsn: Lsn) -> Option<i64> {
        let known = self.marks.partition_point(|mark| mark.lsn <= lsn);
        let own = known.checked_sub(1).map(|last| self.marks[last].time);
        own.or_else(|| {
            let Ancestor { catalog, at } = self.ancestor.as_ref()?;
            catalog.borrow().time_at(lsn.min(*at))
        })
    }

    /// A restore point was made. The oldest are forgotten when there are too many.
    pub fn note_restore_point(&mut self, at: Mark, name: &[u8]) {
        let kept = name.len().min(RESTORE_POINT_NAME_BYTES_MAX);
        let name = String::from_utf8_lossy(&name[..kept]).into_owned();
        self.memory += size_of::<RestorePoint>() + name.len();
        self.restore_points.push(RestorePoint { at, name });
        if self.restore_points.len() > RESTORE_POINTS_MAX {
            let gone = self.restore_points.remove(0);
            self.memory -= size_of::<RestorePoint>() + gone.name.len();
        }
    }

    /// The newest restore point of this name up to `upto`.
    pub fn restore_point(&self, name: &str, upto: Lsn) -> Option<Mark> {
        let mut newest_first = self.restore_points.iter().rev();
        let own = newest_first.find(|point| point.name == name && point.at.lsn <= upto);
        own.map(|point| point.at).or_else(|| {
            let Ancestor { catalog, at } = self.ancestor.as_ref()?;
            catalog.borrow().restore_point(name, upto.min(*at))
        })
    }

    /// Forgets what only reads before `cutoff` could ask for that are not at one of `pins` (sorted).
    pub fn forget_before(&mut self, cutoff: Lsn, pins: &[Lsn]) {
        let mut memory = 0;
        let (ancestor, forgotten_through) = (self.ancestor.as_ref(), &mut self.forgotten_through);
        self.forks.retain(|tag, history| {
            if let Some(gone) = history.is_gone(cutoff, pins)
                && inherited(ancestor, *tag).is_none()
            {
                *forgotten_through = gone.max(*forgotten_through);
                return false;
            }
            history.forget_before(cutoff, pins);
            memory += FORK_OVERHEAD + history.memory();
            true
        });
        // One mark before the cutoff stays: it is the answer for times just after it.
        let marks = self.marks.partition_point(|mark| mark.lsn <= cutoff);
        self.marks.drain(..marks.saturating_sub(1));
        let is_kept = |lsn: Lsn| is_asked_for(lsn, Lsn(lsn.0.saturating_add(1)), cutoff, pins);
        self.restore_points.retain(|point| is_kept(point.at.lsn));
        memory += self.marks.len() * size_of::<Mark>();
        let points = self.restore_points.iter();
        memory += points.map(|point| size_of::<RestorePoint>() + point.name.len()).sum::<usize>();
        self.memory = memory;
    }

    /// Moments, besides `pins` and those from `cutoff` on, at which pages are read nevertheless: databases that can be
    /// seen were copied from others as of then (`CREATE DATABASE … STRATEGY file_copy`), and their pages are read there.
    pub fn copy_sources(&self, cutoff: Lsn, pins: &[Lsn]) -> Vec<Lsn> {
        let mut copies: Vec<_> = self.forks.values().flat_map(History::copies).collect();
        // What was copied may be a copy itself, of an earlier moment: the latest first.
        copies.sort_unstable_by(|one, other| other.cmp(one));
        copies.dedup();
        let mut asked_for = pins.to_vec();
        let mut sources = Vec::new();
        for (from, until) in copies {
            if is_asked_for(from, until, cutoff, &asked_for) && sources.last() != Some(&from) {
                asked_for.insert(asked_for.partition_point(|pin| *pin < from), from);
                sources.push(from);
            }
        }
        sources
    }

    /// Bytes of memory in use, by our own count; the ancestor's not among them.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Forks ever seen on this timeline.
    pub fn forks(&self) -> usize {
        self.forks.len()
    }

    /// The catalog as of `upto`, as bytes.
    pub fn to_bytes(&self, upto: Lsn) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(FORMAT);
        out.number(self.forgotten_through.0);
        out.number(self.forks.len() as u64);
        for (&tag, history) in &self.forks {
            write_tag(tag, &mut out);
            history.upto(upto).write(&mut out);
        }
        let known: Vec<_> = self.hints_logged.iter().filter(|(from, _)| *from <= upto).collect();
        out.number(known.len() as u64);
        for (from, logged) in known {
            out.number(from.0);
            out.number(u64::from(*logged));
        }
        let marks = self.marks.partition_point(|mark| mark.lsn <= upto);
        out.number(marks as u64);
        self.marks[..marks].iter().for_each(|mark| write_mark(*mark, &mut out));
        let points: Vec<_> =
            self.restore_points.iter().filter(|point| point.at.lsn <= upto).collect();
        out.number(points.len() as u64);
        for point in points {
            write_mark(point.at, &mut out);
            out.bytes(point.name.as_bytes());
        }
        out.0
    }

    /// Reads what [`Catalog::to_bytes`] made; `None` if it is not that. A branch's gets its ancestor.
    pub fn from_bytes(
        bytes: &[u8],
        ancestor: Option<(Rc<RefCell<Catalog>>, Lsn)>,
    ) -> Option<Catalog> {
        let ancestor = ancestor.map(|(catalog, at)| Ancestor { catalog, at });
        let mut catalog = Catalog { ancestor, ..Catalog::default() };
        let mut input = Reader(bytes);
        catalog.forgotten_through = match input.number()? {
            1 => Lsn::INVALID,
            FORMAT => Lsn(input.number()?),
            _ => return None,
        };
        for _ in 0..input.count()? {
            let tag = read_tag(&mut input)?;
            let history = History::read(&mut input)?;
            catalog.memory += FORK_OVERHEAD + history.memory();
            catalog.forks.insert(tag, history);
        }
        for _ in 0..input.count()? {
            catalog.hints_logged.push((Lsn(input.number()?), input.number()? != 0));
        }
        for _ in 0..input.count()? {
            catalog.marks.push(read_mark(&mut input)?);
            catalog.memory += size_of::<Mark>();
        }
        for _ in 0..input.count()? {
            let at = read_mark(&mut input)?;
            let name = std::str::from_utf8(input.bytes()?).ok()?.to_owned();
            catalog.memory += size_of::<RestorePoint>() + name.len();
            catalog.restore_points.push(RestorePoint { at, name });
        }
        input.0.is_empty().then_some(catalog)
    }
}

/// What a branch goes on from: the fork as of the branch point.
fn inherited(ancestor: Option<&Ancestor>, tag: RelTag) -> Option<History> {
    let Ancestor { catalog, at } = ancestor?;
    let mut history = catalog.borrow().history_at(tag, *at)?;
    history.forget_before(*at, &[]);
    Some(history)
}

/// Up to where a branch's ancestors have forgotten forks.
fn forgotten(ancestor: Option<&Ancestor>) -> Lsn {
    let Some(Ancestor { catalog, at }) = ancestor else { return Lsn::INVALID };
    let catalog = catalog.borrow();
    catalog.forgotten_through.max(forgotten(catalog.ancestor.as_ref())).min(*at)
}

fn write_mark(mark: Mark, out: &mut Writer) {
    out.number(mark.lsn.0);
    out.number(mark.time.cast_unsigned());
}

fn read_mark(input: &mut Reader<'_>) -> Option<Mark> {
    Some(Mark { lsn: Lsn(input.number()?), time: input.number()?.cast_signed() })
}

#[cfg(test)]
mod tests;
