//! What two versions of a page may differ in: hints that are set without WAL (`rm_mask`, `bufmask.c`).
//!
//! Both pages are masked before they are compared. Masked bytes become zero.

use crate::page::header::{ALL_VISIBLE, HAS_FREE_LINES, HEADER_BYTES, PAGE_FULL};
use crate::page::item::{ItemId, ItemState};
use crate::page::tuple::{SPECULATIVE_NUMBER, Tuple, XACT_MASK, XMAX_COMMITTED, XMAX_INVALID};
use crate::page::{Page, PageBytes};
use crate::wal::cursor::u16_at;
use crate::wal::rmgr::Rmgr;

/// Whose page it is: each has its own hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    Heap,
    Btree,
    Sequence,
    Generic,
    /// A page of the visibility map, the free space map or an access method without masks here: only LSN
    /// and checksum are masked.
    Plain,
}

impl PageKind {
    /// The masks that Postgres uses for this resource manager's records.
    pub const fn of_rmgr(rmgr: Rmgr) -> PageKind {
        match rmgr {
            Rmgr::HEAP | Rmgr::HEAP2 => PageKind::Heap,
            Rmgr::BTREE => PageKind::Btree,
            Rmgr::SEQUENCE => PageKind::Sequence,
            Rmgr::GENERIC => PageKind::Generic,
            _ => PageKind::Plain,
        }
    }
}

/// What to mask besides the kind's hints; Postgres masks both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskOptions {
    pub lsn: bool,
    pub checksum: bool,
}

impl MaskOptions {
    /// As Postgres' own consistency check does.
    pub const POSTGRES: MaskOptions = MaskOptions { lsn: true, checksum: true };
}

const LEAF: u16 = 1 << 0;
const HAS_GARBAGE: u16 = 1 << 6;
const SPLIT_END: u16 = 1 << 5;

/// Masks the page in place; `block` is its number in the fork. A page of zeros stays as it is.
pub fn mask(bytes: &mut PageBytes, kind: PageKind, block: u32, options: MaskOptions) {
    if bytes.iter().all(|&byte| byte == 0) {
        return;
    }
    let mut page = Page::new(bytes);
    if options.lsn {
        page.set_lsn(crate::lsn::Lsn(0));
    }
    if options.checksum {
        page.set_checksum(0);
    }
    match kind {
        PageKind::Heap => {
            mask_hints(&mut page);
            mask_unused(&mut page);
            mask_tuples(&mut page, block);
        }
        PageKind::Btree => mask_btree(&mut page),
        PageKind::Sequence | PageKind::Generic => mask_unused(&mut page),
        PageKind::Plain => {}
    }
}

fn mask_hints(page: &mut Page<'_>) {
    page.set_prune_xid(0);
    page.set_flag(PAGE_FULL | HAS_FREE_LINES | ALL_VISIBLE, false);
}

fn mask_unused(page: &mut Page<'_>) {
    let (lower, upper) = (page.lower(), page.upper());
    if lower >= HEADER_BYTES
        && let Some(hole) = page.bytes.get_mut(lower..upper)
    {
        hole.fill(0);
    }
}

fn mask_tuples(page: &mut Page<'_>, block: u32) {
    for number in 1..=page.item_count() {
        let Ok(id) = page.item_id(number) else { return };
        if id.is_normal()
            && let Some(tuple) = page.item_mut(number).ok().and_then(Tuple::new)
        {
            mask_tuple(tuple, block, number);
        }
        if id.has_storage() {
            let end = id.offset() + id.length();
            if let Some(padding) = page.bytes.get_mut(end..end.next_multiple_of(8)) {
                padding.fill(0);
            }
        }
    }
}

fn mask_tuple(mut tuple: Tuple<'_>, block: u32, number: u16) {
    let hints = if tuple.xmin_frozen() { XMAX_INVALID | XMAX_COMMITTED } else { XACT_MASK };
    tuple.set_infomask(tuple.infomask() & !hints);
    tuple.set_field3(0);
    if tuple.ctid_number() == SPECULATIVE_NUMBER {
        tuple.set_ctid(block, number);
    }
}

fn mask_btree(page: &mut Page<'_>) {
    mask_hints(page);
    mask_unused(page);
    let flags = u16_at(page.special_bytes(), 12).unwrap_or(0);
    if flags & LEAF != 0 {
        for number in 1..=page.item_count() {
            let Ok(id) = page.item_id(number) else { return };
            if id.state() != ItemState::Unused {
                page.set_item_id(number, ItemId(id.0 & !(3 << 15)));
            }
        }
    }
    let masked = (flags & !(HAS_GARBAGE | SPLIT_END)).to_le_bytes();
    if let Some(state) = page.special_bytes_mut().get_mut(12..16) {
        state.copy_from_slice(&[masked[0], masked[1], 0, 0]);
    }
}
