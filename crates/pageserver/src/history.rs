//! Size and existence of one relation fork, by LSN.
//!
//! Invariants: events come in LSN order; `sizes` holds every change, `resets` only those that
//! removed blocks. A block's content at an LSN comes from the records after the last reset that
//! removed it (at or below that LSN), on top of what that reset left there.

use pg::datadir::relation::{Fork, RelTag};
use pg::lsn::Lsn;
use pg::oid::Oid;

use crate::bytes::{Reader, Writer};

/// History of one fork.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Blocks of the file in the base backup; `None` if it had none.
    base: Option<u32>,
    sizes: Vec<Size>,
    resets: Vec<Reset>,
}

/// From `lsn` on (until the next event) the fork has so many blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    lsn: Lsn,
    /// `None`: it does not exist.
    blocks: Option<u32>,
}

/// At `lsn` every block from `first` on ceased to be, or was replaced by another fork's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reset {
    lsn: Lsn,
    first: u32,
    /// The fork is a copy of this one as of `lsn`.
    source: Option<RelTag>,
}

/// Where the content of a block begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In the base backup's file, as far as that reaches; beyond: as zeroes.
    Base { blocks: u32 },
    /// As zeroes; records after this LSN count.
    Zero(Lsn),
    /// As that fork's block as of this LSN; records after it count.
    Copy(RelTag, Lsn),
}

impl History {
    /// A fork whose file had so many blocks in the base backup.
    pub fn with_base(blocks: u32) -> History {
        History { base: Some(blocks), ..History::default() }
    }

    /// Blocks as of `lsn`, or `None` if the fork does not exist then.
    pub fn blocks_at(&self, lsn: Lsn) -> Option<u32> {
        let next = self.sizes.partition_point(|size| size.lsn <= lsn);
        match next.checked_sub(1) {
            Some(last) => self.sizes[last].blocks,
            None => self.base,
        }
    }

    /// Blocks as of the newest event.
    pub fn blocks(&self) -> Option<u32> {
        self.sizes.last().map_or(self.base, |size| size.blocks)
    }

    /// Blocks of the base backup's file.
    pub fn base_blocks(&self) -> Option<u32> {
        self.base
    }

    /// Where the content of `block` as of `lsn` begins.
    pub fn origin(&self, block: u32, lsn: Lsn) -> Origin {
        let known = self.resets.partition_point(|reset| reset.lsn <= lsn);
        match self.resets[..known].iter().rev().find(|reset| reset.first <= block) {
            None => Origin::Base { blocks: self.base.unwrap_or(0) },
            Some(Reset { lsn, source: Some(source), .. }) => Origin::Copy(*source, *lsn),
            Some(Reset { lsn, .. }) => Origin::Zero(*lsn),
        }
    }

    /// The fork exists from `lsn` on; nothing happens if it did already.
    pub fn create(&mut self, lsn: Lsn) {
        if self.blocks().is_none() {
            self.set(lsn, Some(0));
        }
    }

    /// The fork has at least so many blocks from `lsn` on.
    pub fn extend(&mut self, lsn: Lsn, blocks: u32) {
        if self.blocks().is_none_or(|known| known < blocks) {
            self.set(lsn, Some(blocks));
        }
    }

    /// The fork has at most so many blocks from `lsn` on.
    pub fn truncate(&mut self, lsn: Lsn, blocks: u32) {
        // Even when no block of ours goes: the base backup's file may be the longer one only
        // because it was copied earlier than we think; Postgres ignores that in recovery, too.
        if self.blocks().is_some_and(|known| known > blocks) {
            self.resets.push(Reset { lsn, first: blocks, source: None });
            self.set(lsn, Some(blocks));
        }
    }

    /// The fork does not exist from `lsn` on.
    pub fn drop(&mut self, lsn: Lsn) {
        if self.blocks().is_some() {
            self.resets.push(Reset { lsn, first: 0, source: None });
            self.set(lsn, None);
        }
    }

    /// The fork is, as of `lsn`, a copy of `source`, which has so many blocks then.
    pub fn copy_from(&mut self, lsn: Lsn, source: RelTag, blocks: u32) {
        self.resets.push(Reset { lsn, first: 0, source: Some(source) });
        self.set(lsn, Some(blocks));
    }

    /// The history as it was when everything up to `lsn` had happened.
    pub fn upto(&self, lsn: Lsn) -> History {
        let sizes = self.sizes.partition_point(|size| size.lsn <= lsn);
        let resets = self.resets.partition_point(|reset| reset.lsn <= lsn);
        History {
            base: self.base,
            sizes: self.sizes[..sizes].to_vec(),
            resets: self.resets[..resets].to_vec(),
        }
    }

    /// Forgets sizes that nobody can ask for any more: those that held at no pin (sorted) and not at `cutoff` or later.
    /// Where blocks begin is kept, lest what is stored of an earlier life of a block come back; but not of blocks that have
    /// begun anew since, for all who can ask.
    pub fn forget_before(&mut self, cutoff: Lsn, pins: &[Lsn]) {
        self.forget_resets(cutoff, pins);
        let ends = self.sizes.iter().skip(1).map(|size| size.lsn).chain([Lsn::MAX]);
        let ends: Vec<Lsn> = ends.collect();
        let mut number = 0;
        self.sizes.retain(|size| {
            number += 1;
            ends.get(number - 1).is_none_or(|end| is_asked_for(size.lsn, *end, cutoff, pins))
        });
    }

    /// A table that is emptied again and again, and so cut off by each vacuum, would have more of them without end.
    fn forget_resets(&mut self, cutoff: Lsn, pins: &[Lsn]) {
        let mut kept: Vec<Reset> = Vec::new();
        for reset in std::mem::take(&mut self.resets) {
            let hides = |before: &Reset| {
                reset.first <= before.first && !is_asked_for(before.lsn, reset.lsn, cutoff, pins)
            };
            while kept.pop_if(|before| hides(before)).is_some() {}
            kept.push(reset);
        }
        self.resets = kept;
    }

    /// Since when nothing is there, if that is so for everybody who can ask.
    pub fn is_gone(&self, cutoff: Lsn, pins: &[Lsn]) -> Option<Lsn> {
        let last = self.sizes.last().filter(|last| last.blocks.is_none() && last.lsn <= cutoff)?;
        pins.iter().all(|pin| self.blocks_at(*pin).is_none()).then_some(last.lsn)
    }

    /// A fork of which all was forgotten that there may have been up to `lsn`.
    pub fn after_forgotten(lsn: Lsn) -> History {
        let forgotten = Reset { lsn, first: 0, source: None };
        let resets = if lsn.is_valid() { vec![forgotten] } else { Vec::new() };
        History { resets, ..History::default() }
    }

    /// The copies of other forks in it: since when each is one, and until when.
    pub fn copies(&self) -> impl Iterator<Item = (Lsn, Lsn)> {
        let copies = self.resets.iter().enumerate().filter(|(_, reset)| reset.source.is_some());
        copies.map(|(number, copy)| {
            let mut later = self.resets[number + 1..].iter();
            let end = later.find(|reset| reset.first == 0).map_or(Lsn::MAX, |reset| reset.lsn);
            (copy.lsn, end)
        })
    }

    /// Appends the history to what is written.
    pub fn write(&self, out: &mut Writer) {
        out.optional(self.base);
        out.number(self.sizes.len() as u64);
        let mut before = Lsn::INVALID;
        for size in &self.sizes {
            out.number(size.lsn.bytes_since(before));
            out.optional(size.blocks);
            before = size.lsn;
        }
        out.number(self.resets.len() as u64);
        before = Lsn::INVALID;
        for reset in &self.resets {
            out.number(reset.lsn.bytes_since(before));
            out.number(u64::from(reset.first));
            write_source(reset.source, out);
            before = reset.lsn;
        }
    }

    /// Reads what [`History::write`] wrote.
    pub fn read(input: &mut Reader<'_>) -> Option<History> {
        let mut history = History { base: input.optional()?, ..History::default() };
        let mut lsn = Lsn::INVALID;
        for _ in 0..input.count()? {
            lsn = Lsn(lsn.0.checked_add(input.number()?)?);
            history.sizes.push(Size { lsn, blocks: input.optional()? });
        }
        lsn = Lsn::INVALID;
        for _ in 0..input.count()? {
            lsn = Lsn(lsn.0.checked_add(input.number()?)?);
            let first = input.small()?;
            history.resets.push(Reset { lsn, first, source: read_source(input)? });
        }
        Some(history)
    }

    /// Bytes of memory that the events take.
    pub fn memory(&self) -> usize {
        self.sizes.capacity() * size_of::<Size>() + self.resets.capacity() * size_of::<Reset>()
    }

    fn set(&mut self, lsn: Lsn, blocks: Option<u32>) {
        debug_assert!(self.sizes.last().is_none_or(|last| last.lsn <= lsn), "events go forward");
        match self.sizes.last_mut() {
            Some(last) if last.lsn == lsn => last.blocks = blocks,
            _ => self.sizes.push(Size { lsn, blocks }),
        }
    }
}

/// Whether somebody can ask for a moment from `from` on and before `until`: at one of the pins (sorted), or not before
/// `cutoff`.
pub fn is_asked_for(from: Lsn, until: Lsn, cutoff: Lsn, pins: &[Lsn]) -> bool {
    let pin = pins.get(pins.partition_point(|pin| *pin < from));
    until > cutoff || pin.is_some_and(|pin| *pin < until)
}

fn write_source(source: Option<RelTag>, out: &mut Writer) {
    out.number(u64::from(source.is_some()));
    if let Some(tag) = source {
        write_tag(tag, out);
    }
}

#[expect(clippy::option_option, reason = "the outer one says that bytes are missing")]
fn read_source(input: &mut Reader<'_>) -> Option<Option<RelTag>> {
    match input.number()? {
        0 => Some(None),
        _ => Some(Some(read_tag(input)?)),
    }
}

/// A fork's name as bytes.
pub fn write_tag(tag: RelTag, out: &mut Writer) {
    for number in [tag.spcnode.0, tag.dbnode.0, tag.relnode.0, tag.fork.number().into()] {
        out.number(u64::from(number));
    }
}

/// Reads what [`write_tag`] wrote.
pub fn read_tag(input: &mut Reader<'_>) -> Option<RelTag> {
    let mut oid = || input.small().map(Oid);
    let (spcnode, dbnode, relnode) = (oid()?, oid()?, oid()?);
    let fork = Fork::from_number(u8::try_from(input.number()?).ok()?)?;
    Some(RelTag { spcnode, dbnode, relnode, fork })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bit of everything.
    fn eventful() -> History {
        let source = pg::datadir::relation::RelNode::new(1663, 1, 2).fork(Fork::Vm);
        let mut history = History::with_base(10);
        history.extend(Lsn(10), 12);
        history.truncate(Lsn(20), 4);
        history.drop(Lsn(30));
        history.copy_from(Lsn(40), source, 7);
        history.extend(Lsn(50), u32::MAX - 1);
        history
    }

    #[test]
    fn comes_back_from_its_bytes() {
        for history in [History::default(), History::with_base(0), eventful()] {
            let mut bytes = Writer::default();
            history.write(&mut bytes);
            let mut input = Reader(&bytes.0);
            assert_eq!(History::read(&mut input), Some(history));
            assert!(input.0.is_empty());
            for end in 0..bytes.0.len() {
                assert_eq!(History::read(&mut Reader(&bytes.0[..end])), None, "cut at {end}");
            }
        }
    }

    #[test]
    fn the_history_up_to_then_says_the_same_about_then() {
        let all = eventful();
        for at in 0..60 {
            let then = all.upto(Lsn(at));
            assert_eq!(then.blocks(), all.blocks_at(Lsn(at)), "at {at}");
            assert_eq!(then.origin(3, Lsn::MAX), all.origin(3, Lsn(at)), "at {at}");
        }
    }

    #[test]
    fn forgotten_sizes_change_nothing_that_one_can_ask_for() {
        let all = eventful();
        for (cutoff, pin) in (0..60).flat_map(|cutoff| (0..60).map(move |pin| (cutoff, pin))) {
            let mut shorter = all.clone();
            shorter.forget_before(Lsn(cutoff), &[Lsn(pin)]);
            for at in (cutoff..60).chain([pin]) {
                let says =
                    |history: &History| (history.blocks_at(Lsn(at)), history.origin(3, Lsn(at)));
                assert_eq!(says(&shorter), says(&all), "{at}, from {cutoff} on and at {pin}");
            }
        }
        let mut shorter = all.clone();
        shorter.forget_before(Lsn(55), &[Lsn(25)]);
        assert_eq!((all.sizes.len(), shorter.sizes.len()), (5, 2), "and others are gone");
        assert_eq!((all.resets.len(), shorter.resets.len()), (3, 2), "one is pinned, one counts");
    }

    #[test]
    fn truncations_without_end_do_not_pile_up() {
        let mut history = History::with_base(10);
        for round in 1..1000 {
            history.extend(Lsn(round * 10), 12);
            history.truncate(Lsn(round * 10 + 5), if round % 3 == 0 { 2 } else { 4 });
            history.forget_before(Lsn(round * 10), &[Lsn(17)]);
            assert!(history.memory() < 1000, "round {round}");
        }
        assert_eq!(history.origin(4, Lsn(17)), Origin::Zero(Lsn(15)), "it is pinned");
        assert_eq!(history.origin(3, Lsn(17)), Origin::Base { blocks: 10 });
        assert_eq!(history.origin(3, Lsn(9_999)), Origin::Zero(Lsn(9_995)));
        assert_eq!(history.origin(1, Lsn(9_999)), Origin::Base { blocks: 10 });
    }

    #[test]
    fn is_gone_only_if_nobody_can_see_it() {
        let gone = eventful().upto(Lsn(30));
        assert_eq!(eventful().is_gone(Lsn::MAX, &[]), None, "it is there again");
        assert_eq!(gone.is_gone(Lsn(30), &[]), Some(Lsn(30)));
        assert_eq!(gone.is_gone(Lsn(30), &[Lsn(30), Lsn(77)]), Some(Lsn(30)));
        assert_eq!(gone.is_gone(Lsn(29), &[]), None);
        assert_eq!(gone.is_gone(Lsn(60), &[Lsn(29)]), None);
    }

    #[test]
    fn knows_from_when_to_when_it_is_a_copy() {
        let mut history = eventful();
        assert_eq!(history.copies().collect::<Vec<_>>(), [(Lsn(40), Lsn::MAX)]);
        history.truncate(Lsn(60), 1);
        history.drop(Lsn(70));
        assert_eq!(history.copies().collect::<Vec<_>>(), [(Lsn(40), Lsn(70))]);
    }

    #[test]
    fn base_size_holds_until_the_first_event() {
        let mut history = History::with_base(4);
        history.extend(Lsn(10), 3);
        assert_eq!(history.blocks_at(Lsn(10)), Some(4));
        history.extend(Lsn(20), 6);
        assert_eq!(history.blocks_at(Lsn(19)), Some(4));
        assert_eq!(history.blocks_at(Lsn(20)), Some(6));
        assert_eq!(history.origin(5, Lsn(20)), Origin::Base { blocks: 4 });
    }

    #[test]
    fn a_truncated_block_begins_again_as_zeroes() {
        let mut history = History::with_base(10);
        history.truncate(Lsn(10), 4);
        history.extend(Lsn(20), 8);
        assert_eq!(history.blocks_at(Lsn(15)), Some(4));
        assert_eq!(history.origin(3, Lsn(30)), Origin::Base { blocks: 10 });
        assert_eq!(history.origin(4, Lsn(30)), Origin::Zero(Lsn(10)));
        assert_eq!(history.origin(4, Lsn(9)), Origin::Base { blocks: 10 });
    }

    #[test]
    fn a_truncation_beyond_the_end_changes_nothing() {
        let mut history = History::with_base(3);
        history.truncate(Lsn(10), 5);
        assert_eq!(history.blocks(), Some(3));
        assert_eq!(history.origin(2, Lsn(10)), Origin::Base { blocks: 3 });
    }

    #[test]
    fn a_file_number_used_again_starts_empty() {
        let mut history = History::with_base(3);
        history.drop(Lsn(10));
        assert_eq!(history.blocks_at(Lsn(10)), None);
        assert_eq!(history.blocks_at(Lsn(9)), Some(3));
        history.create(Lsn(20));
        history.extend(Lsn(30), 1);
        assert_eq!(history.blocks_at(Lsn(25)), Some(0));
        assert_eq!(history.origin(0, Lsn(30)), Origin::Zero(Lsn(10)));
        history.create(Lsn(40));
        assert_eq!(history.blocks(), Some(1));
    }

    #[test]
    fn a_copy_reads_its_source_as_of_then() {
        let source = pg::datadir::relation::RelNode::new(1663, 1, 2).fork(Fork::Main);
        let mut history = History::default();
        history.copy_from(Lsn(10), source, 2);
        assert_eq!(history.origin(1, Lsn(50)), Origin::Copy(source, Lsn(10)));
        history.truncate(Lsn(20), 1);
        assert_eq!(history.origin(1, Lsn(50)), Origin::Zero(Lsn(20)));
        assert_eq!(history.origin(0, Lsn(50)), Origin::Copy(source, Lsn(10)));
    }
}
