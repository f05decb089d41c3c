//! Posting lists: forming, splitting and shrinking them (`access/nbtree/nbtdedup.c`).

use super::super::{Done, Fault, Step, field};
use super::tuple::{self, Posting, TID_BYTES};
use super::{HAS_GARBAGE, HIGH_KEY, OPAQUE_BYTES, opaque};
use crate::page::header::align;
use crate::page::{PAGE_BYTES, Page};
use crate::wal::cursor::{Cursor, u16_at};

/// Gives the new item's heap pointer its place in the list and the list's last one to the new item;
/// answers the list's new bytes (`_bt_swap_posting`).
pub(super) fn swap(new: &mut [u8], list: &[u8], at: u16) -> Result<Vec<u8>, Fault> {
    let posting = Posting::of(list).ok_or(Fault::Page("not a posting list"))?;
    let at = usize::from(at);
    if at == 0 || at >= posting.count {
        return Err(Fault::Record("posting list cannot be split there"));
    }
    let mut swapped = list.to_vec();
    let tids = posting.offset..posting.offset + posting.count * TID_BYTES;
    let tids = swapped.get_mut(tids).ok_or(Fault::Page("posting list beyond its tuple"))?;
    let new_tid = field(new.get_mut(..TID_BYTES))?;
    let end = tids.len() - TID_BYTES;
    let last = tids.get(end..).unwrap_or_default().to_vec();
    tids.copy_within(at * TID_BYTES..end, (at + 1) * TID_BYTES);
    if let Some(gap) = tids.get_mut(at * TID_BYTES..(at + 1) * TID_BYTES) {
        gap.copy_from_slice(new_tid);
    }
    new_tid.copy_from_slice(&last);
    Ok(swapped)
}

/// The tuple without those heap pointers whose places in its list are in `deleted`, ascending
/// (`_bt_update_posting`).
pub(super) fn shrink(old: &[u8], deleted: &[u16]) -> Result<Vec<u8>, Fault> {
    let posting = Posting::of(old).ok_or(Fault::Page("not a posting list"))?;
    let tids = posting.tids(old).ok_or(Fault::Page("posting list beyond its tuple"))?;
    let mut doomed = deleted.iter().map(|&place| usize::from(place)).peekable();
    let mut kept = Vec::with_capacity(tids.len());
    for (place, tid) in tids.chunks_exact(TID_BYTES).enumerate() {
        if doomed.next_if_eq(&place).is_none() {
            kept.extend_from_slice(tid);
        }
    }
    if kept.is_empty() || doomed.next().is_some() {
        return Err(Fault::Record("incorrect places in a posting list"));
    }
    form(old, posting.offset, &kept)
}

/// A tuple with the key of `base` and these heap pointers (`_bt_form_posting`).
fn form(base: &[u8], key_bytes: usize, tids: &[u8]) -> Result<Vec<u8>, Fault> {
    let key = base.get(..key_bytes).ok_or(Fault::Page("index tuple shorter than its key"))?;
    let mut formed = key.to_vec();
    let count = tids.len() / TID_BYTES;
    if count > 1 {
        formed.extend_from_slice(tids);
        formed.resize(align(formed.len()), 0);
    }
    let size = formed.len();
    let marked = tuple::set_size(&mut formed, size).and_then(|()| match count {
        1 => tuple::make_plain(&mut formed, tids),
        _ => Posting { offset: key_bytes, count }.mark(&mut formed),
    });
    marked.ok_or(Fault::Page("index tuple shorter than its header"))?;
    Ok(formed)
}

/// Tuples that are being merged: the first one, and all heap pointers so far.
struct Pending {
    base: Vec<u8>,
    key_bytes: usize,
    first: u16,
    items: u16,
    tids: Vec<u8>,
}

impl Pending {
    fn start(base: &[u8], first: u16) -> Result<Pending, Fault> {
        let size = field(tuple::size(base))?;
        let key_bytes = Posting::of(base).map_or(size, |posting| posting.offset);
        let tids = field(heap_tids(base))?.to_vec();
        let base = field(base.get(..size))?.to_vec();
        Ok(Pending { base, key_bytes, first, items: 1, tids })
    }

    fn finish(self, page: &mut Page<'_>) -> Result<(), Fault> {
        if self.items == 1 {
            page.append_item(&self.base)?;
        } else {
            page.append_item(&form(&self.base, self.key_bytes, &self.tids)?)?;
        }
        Ok(())
    }
}

/// The heap pointers of a leaf's tuple: its list, or the one in its header.
fn heap_tids(tuple: &[u8]) -> Option<&[u8]> {
    match Posting::of(tuple) {
        Some(posting) => posting.tids(tuple),
        None => tuple.get(..TID_BYTES),
    }
}

/// Merges the runs of equal tuples that the record names: (first line pointer, count) pairs.
pub(super) fn deduplicate(step: &mut Step<'_, '_, '_>) -> Result<Done, Fault> {
    let count = field(step.main_data().u16())?;
    let intervals = field(step.block.data.get(..usize::from(count) * 4))?;
    let mut intervals = intervals
        .chunks_exact(4)
        .map(|pair| (u16_at(pair, 0).unwrap_or(0), u16_at(pair, 2).unwrap_or(0)))
        .peekable();
    let old = *step.page.bytes();
    let mut old = old;
    let old = Page::new(&mut old);
    let mut state = opaque(&old)?;
    step.page.init(OPAQUE_BYTES);
    if !state.is_rightmost() {
        step.page.append_item(old.item(HIGH_KEY)?)?;
    }
    let mut pending: Option<Pending> = None;
    for number in state.first_data_key()..=old.item_count() {
        let item = old.item(number)?;
        match &mut pending {
            Some(run) if intervals.peek().is_some_and(|i| i.0 == run.first && run.items < i.1) => {
                run.tids.extend_from_slice(field(heap_tids(item))?);
                run.items += 1;
                continue;
            }
            _ => {}
        }
        if let Some(run) = pending.replace(Pending::start(item, number)?) {
            intervals.next_if(|interval| interval.0 == run.first && run.items > 1);
            run.finish(&mut step.page)?;
        }
    }
    if let Some(run) = pending {
        run.finish(&mut step.page)?;
    }
    state.flags &= !HAS_GARBAGE;
    state.write(&mut step.page);
    Ok(Done::Changed)
}

/// Places in posting lists, as vacuum and deletion log them: per list a count, then that many places.
pub(super) fn places(cursor: &mut Cursor<'_>) -> Option<Vec<u16>> {
    let count = usize::from(cursor.u16()?);
    if count > PAGE_BYTES {
        return None;
    }
    (0..count).map(|_each| cursor.u16()).collect()
}
