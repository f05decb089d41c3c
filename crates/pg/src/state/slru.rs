//! Pages of the transaction logs: what changes do to them (`clog.c`, `commit_ts.c`, `multixact.c`, `slru.c`).

use super::{Counters, Key, Touch};
use crate::datadir::slru::{
    self, COMMIT_TIMESTAMPS_PER_PAGE, OFFSETS_PER_PAGE, SEGMENT_PAGES, Slru, XIDS_PER_PAGE,
    XidStatus,
};
use crate::page::{PAGE_BYTES, PageBytes};
use crate::redo::effects::{Change, TransactionEnd};

/// Which pages of a log are gone; always whole segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Segments whose first and last page both precede this page (`SimpleLruTruncate`).
    Before(u32),
    /// Segments from one up to another that stays, in a circle (`PerformMembersTruncation`).
    Segments {
        from: u32,
        until: u32,
    },
    All,
}

impl Removal {
    /// Whether this page of the log is gone.
    pub const fn removes(self, slru: Slru, page: u32) -> bool {
        let segment = page / SEGMENT_PAGES;
        match self {
            Removal::Before(cutoff) => {
                let first = segment * SEGMENT_PAGES;
                let last = first.saturating_add(SEGMENT_PAGES - 1);
                precedes(slru, first, cutoff) && precedes(slru, last, cutoff)
            }
            Removal::Segments { from, until } if from <= until => {
                from <= segment && segment < until
            }
            Removal::Segments { from, until } => segment >= from || segment < until,
            Removal::All => true,
        }
    }
}

/// Whether all ids of a page come before all ids of another (`CLOGPagePrecedes` and its like): ids count in a circle.
const fn precedes(slru: Slru, page: u32, other: u32) -> bool {
    let per_page = match slru {
        Slru::Clog => XIDS_PER_PAGE,
        Slru::CommitTimestamps => COMMIT_TIMESTAMPS_PER_PAGE,
        Slru::MultiXactOffsets => OFFSETS_PER_PAGE,
        Slru::MultiXactMembers => slru::MEMBERS_PER_PAGE,
    };
    let (one, other) = (page.wrapping_mul(per_page), other.wrapping_mul(per_page));
    let last = other.wrapping_add(per_page - 1);
    one.wrapping_sub(other).cast_signed() < 0 && one.wrapping_sub(last).cast_signed() < 0
}

/// The pages that the end of a transaction changes.
pub(super) fn transaction_pages(end: &TransactionEnd<'_>, before: &Counters) -> Vec<Touch> {
    let mut touches = pages_of(end, Slru::Clog, slru::xid_page);
    if end.committed && before.parameters.track_commit_timestamp {
        touches.extend(pages_of(end, Slru::CommitTimestamps, slru::commit_timestamp_page));
    }
    touches
}

fn pages_of(end: &TransactionEnd<'_>, slru: Slru, page: fn(u32) -> u32) -> Vec<Touch> {
    if end.subxids.is_empty() {
        let page = Touch::Redo(Key::Slru(slru, page(end.xid)));
        return if end.xid == 0 { Vec::new() } else { vec![page] };
    }
    let mut pages: Vec<u32> = xids(end).map(page).collect();
    pages.sort_unstable();
    pages.dedup();
    pages.into_iter().map(|page| Touch::Redo(Key::Slru(slru, page))).collect()
}

/// A transaction without an id of its own has nothing in any log.
fn xids(end: &TransactionEnd<'_>) -> impl Iterator<Item = u32> {
    [end.xid].into_iter().chain(end.subxids.iter().copied()).filter(|&xid| xid != 0)
}

/// What changes of the logs themselves touch.
pub(super) fn log_touches(change: &Change<'_>, before: &Counters) -> Vec<Touch> {
    let page = |slru, page: &u32| vec![Touch::Redo(Key::Slru(slru, *page))];
    match change {
        Change::ClogPageZeroed(number) => page(Slru::Clog, number),
        Change::CommitTimestampPageZeroed(number) => page(Slru::CommitTimestamps, number),
        Change::MultiXactOffsetsPageZeroed(number) => page(Slru::MultiXactOffsets, number),
        Change::MultiXactMembersPageZeroed(number) => page(Slru::MultiXactMembers, number),
        Change::ClogTruncated { page, .. } => {
            vec![Touch::RemovePages(Slru::Clog, Removal::Before(*page))]
        }
        Change::CommitTimestampsTruncated { page, .. } => {
            vec![Touch::RemovePages(Slru::CommitTimestamps, Removal::Before(*page))]
        }
        Change::MultiXactsTruncated { offsets, members, .. } => {
            // The cutoff is the page of the last multixact that goes, lest it be a page that does not exist yet.
            let last = slru::multixact_offset_page(slru::previous_multixact(offsets.1));
            let segment = |offset| slru::multixact_member_page(offset) / SEGMENT_PAGES;
            let (from, until) = (segment(members.0), segment(members.1));
            vec![
                Touch::RemovePages(Slru::MultiXactMembers, Removal::Segments { from, until }),
                Touch::RemovePages(Slru::MultiXactOffsets, Removal::Before(last)),
            ]
        }
        Change::MultiXactCreated { multi, offset, members } => {
            multixact_pages(*multi, *offset, members.len())
        }
        Change::ParametersChanged(parameters) if parameters.track_commit_timestamp => {
            // `ActivateCommitTs` makes the page of the next transaction ready, and logs nothing.
            let next = slru::commit_timestamp_page(before.next_xid());
            let off = !before.parameters.track_commit_timestamp;
            off.then_some(Touch::Redo(Key::Slru(Slru::CommitTimestamps, next)))
                .into_iter()
                .collect()
        }
        Change::ParametersChanged(_) => {
            vec![Touch::RemovePages(Slru::CommitTimestamps, Removal::All)]
        }
        _ => Vec::new(),
    }
}

fn multixact_pages(multi: u32, offset: u32, members: usize) -> Vec<Touch> {
    let count = u32::try_from(members).unwrap_or(u32::MAX);
    let (next, _offset) = slru::next_multixact(multi, offset, count);
    let mut keys = vec![Key::Slru(Slru::MultiXactOffsets, slru::multixact_offset_page(multi))];
    keys.push(Key::Slru(Slru::MultiXactOffsets, slru::multixact_offset_page(next)));
    keys.extend((0..count).map(|index| {
        let page = slru::multixact_member_page(offset.wrapping_add(index));
        Key::Slru(Slru::MultiXactMembers, page)
    }));
    keys.dedup();
    keys.into_iter().map(Touch::Redo).collect()
}

/// Brings a page up to a change. A page that is not there counts as zeroes, as in Postgres' own recovery.
pub(super) fn redo(
    slru: Slru,
    number: u32,
    value: &mut Vec<u8>,
    change: &Change<'_>,
) -> Result<(), &'static str> {
    if value.is_empty() {
        value.resize(PAGE_BYTES, 0);
    }
    let page: &mut PageBytes =
        value.as_mut_slice().try_into().map_err(|_length| "a page of another length")?;
    match (slru, change) {
        (Slru::Clog, Change::TransactionEnded(end)) => {
            let status = if end.committed { XidStatus::Committed } else { XidStatus::Aborted };
            for xid in xids(end).filter(|&xid| slru::xid_page(xid) == number) {
                slru::set_xid_status(page, xid, status);
            }
        }
        (Slru::CommitTimestamps, Change::TransactionEnded(end)) if end.committed => {
            // A replicated transaction keeps the time at which it was committed where it comes from.
            let (time, origin) =
                end.origin.map_or((end.time, 0), |origin| (origin.time, origin.number));
            for xid in xids(end).filter(|&xid| slru::commit_timestamp_page(xid) == number) {
                slru::set_commit_timestamp(page, xid, time, origin);
            }
        }
        (Slru::Clog, Change::ClogPageZeroed(zeroed))
        | (Slru::CommitTimestamps, Change::CommitTimestampPageZeroed(zeroed))
        | (Slru::MultiXactMembers, Change::MultiXactMembersPageZeroed(zeroed))
            if *zeroed == number =>
        {
            page.fill(0);
        }
        (Slru::MultiXactOffsets, Change::MultiXactOffsetsPageZeroed(zeroed))
            if *zeroed == number =>
        {
            zero_offsets(page);
        }
        (_, Change::MultiXactCreated { multi, offset, members }) => {
            create_multixact(slru, number, page, (*multi, *offset), members);
        }
        _ => {}
    }
    Ok(())
}

/// Zeroes a page of offsets, but for the first entry if that is all there is: the multixact before wrote it when it was
/// made, which servers that do not do so themselves log *before* they make the page ready.
fn zero_offsets(page: &mut PageBytes) {
    let (first, rest) = page.split_at_mut(4);
    if rest.iter().any(|&byte| byte != 0) {
        first.fill(0);
        rest.fill(0);
    }
}

fn create_multixact(
    slru: Slru,
    number: u32,
    page: &mut PageBytes,
    (multi, offset): (u32, u32),
    members: &[(u32, u32)],
) {
    let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
    if slru == Slru::MultiXactOffsets {
        for (multi, offset) in [(multi, offset), slru::next_multixact(multi, offset, count)] {
            if slru::multixact_offset_page(multi) == number {
                slru::set_multixact_offset(page, multi, offset);
            }
        }
    }
    if slru == Slru::MultiXactMembers {
        for (index, &(xid, status)) in (0..count).zip(members) {
            let at = offset.wrapping_add(index);
            if slru::multixact_member_page(at) == number {
                slru::set_multixact_member(page, at, xid, status);
            }
        }
    }
}
