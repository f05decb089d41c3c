//! What two versions of a page may differ in: hints that are set without WAL (`rm_mask`, `bufmask.c`).
//!
//! Both pages are masked before they are compared. Masked bytes become zero.

use crate::datadir::relation::Fork;
use crate::lsn::Lsn;
use crate::page::diff::{Difference, diff};
use crate::page::header::{ALL_VISIBLE, HAS_FREE_LINES, HEADER_BYTES, PAGE_FULL, is_new, lsn};
use crate::page::item::ItemId;
use crate::page::tuple::{SPECULATIVE_NUMBER, Tuple, XACT_MASK, XMAX_COMMITTED, XMAX_INVALID};
use crate::page::{PAGE_BYTES, Page, PageBytes};
use crate::wal::cursor::u16_at;
use crate::wal::rmgr::Rmgr;

/// Whose page it is: each has its own hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    Heap,
    Btree,
    Hash,
    Gin,
    Gist,
    Spgist,
    Brin,
    Sequence,
    Generic,
    /// Of the visibility map or the free space map: only LSN and checksum are masked.
    Map,
}

impl PageKind {
    /// The masks that Postgres uses for this resource manager's records.
    pub const fn of_rmgr(rmgr: Rmgr) -> PageKind {
        match rmgr {
            Rmgr::HEAP | Rmgr::HEAP2 => PageKind::Heap,
            Rmgr::BTREE => PageKind::Btree,
            Rmgr::HASH => PageKind::Hash,
            Rmgr::GIN => PageKind::Gin,
            Rmgr::GIST => PageKind::Gist,
            Rmgr::SPGIST => PageKind::Spgist,
            Rmgr::BRIN => PageKind::Brin,
            Rmgr::SEQUENCE => PageKind::Sequence,
            Rmgr::GENERIC => PageKind::Generic,
            _ => PageKind::Map,
        }
    }

    /// What a page in a file looks like, by the identification at its end.
    ///
    /// Index pages carry one so that tools can tell them apart. An extension's page may be taken for
    /// another kind; its masks then hide nothing but hint-like bytes.
    pub fn of_page(bytes: &PageBytes, fork: Fork) -> PageKind {
        if matches!(fork, Fork::Fsm | Fork::Vm) {
            return PageKind::Map;
        }
        let special = u16_at(bytes, 16).map_or(PAGE_BYTES, usize::from);
        let special = bytes.get(special..).unwrap_or_default();
        let last = special.last_chunk().map_or(0, |last| u16::from_le_bytes(*last));
        match (special.len(), last) {
            (0, _) => PageKind::Heap,
            (8, 0) if special.starts_with(&[0x17, 0x17, 0, 0, 0, 0]) => PageKind::Sequence,
            (8, 0xFF82) => PageKind::Spgist,
            (8, BRIN_META..=BRIN_REGULAR) => PageKind::Brin,
            (8, 0..0x0100) => PageKind::Gin,
            (16, 0xFF80) => PageKind::Hash,
            (16, 0xFF81) => PageKind::Gist,
            (16, 0..=0xFF7F) => PageKind::Btree,
            _ => PageKind::Generic,
        }
    }
}

/// What to mask besides the kind's hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskOptions {
    pub lsn: bool,
    pub checksum: bool,
    /// What a running server changes without WAL on purpose: the values of a sequence, which the WAL runs
    /// ahead of by up to 32, and the cache in an SP-GiST metapage. And what it fails to log: see [`compare`].
    pub unlogged_values: bool,
}

impl MaskOptions {
    /// As Postgres' own consistency check does.
    pub const POSTGRES: MaskOptions =
        MaskOptions { lsn: true, checksum: true, unlogged_values: false };
    /// For a stopped cluster's files against pages rebuilt from its WAL.
    pub const FILES: MaskOptions = MaskOptions { unlogged_values: true, ..Self::POSTGRES };
}

const LEAF: u16 = 1 << 0;
const BTREE_HAS_GARBAGE: u16 = 1 << 6;
const BTREE_SPLIT_END: u16 = 1 << 5;
const HASH_PAGE_TYPE: u16 = 0x0F;
const HASH_HAS_DEAD_TUPLES: u16 = 1 << 7;
const HASH_OVERFLOW_OR_BUCKET: u16 = 0x03;
const GIN_DELETED: u16 = 1 << 2;
const GIST_TUPLES_DELETED: u16 = 1 << 2;
const GIST_FOLLOW_RIGHT: u16 = 1 << 3;
const GIST_HAS_GARBAGE: u16 = 1 << 4;
const SPGIST_META: u16 = 1 << 0;
const BRIN_META: u16 = 0xF091;
const BRIN_REGULAR: u16 = 0xF093;
const BRIN_EVACUATE: u16 = 1 << 0;

/// Compares our version of a page with a file's (`block` is its number in the fork), both masked.
///
/// A page that the server made ready but never wrote WAL for (all zeros, or empty with LSN 0) equals one
/// that we do not have. With `unlogged_values`, our visibility map may lack bits that the file's has:
/// `CREATE DATABASE … STRATEGY wal_log` logs the map's pages as if their contents were unused space
/// (`RelationCopyStorageUsingBuffer`), so that a standby, too, begins with an empty map. The other way
/// round would be damage.
pub fn compare(
    ours: Option<&PageBytes>,
    theirs: &PageBytes,
    kind: PageKind,
    block: u32,
    options: MaskOptions,
) -> Option<Difference> {
    let zeros = [0; PAGE_BYTES];
    let ours = ours.unwrap_or(&zeros);
    if ours == theirs || (*ours == zeros && is_blank(theirs)) {
        return None;
    }
    if kind == PageKind::Map && options.unlogged_values && lacks_bits_only(ours, theirs) {
        return None;
    }
    // The common case: nothing but LSN and checksum differ.
    if options.lsn && options.checksum && ours.get(10..) == theirs.get(10..) {
        return None;
    }
    let (mut ours, mut theirs) = (*ours, *theirs);
    mask(&mut ours, kind, block, options);
    mask(&mut theirs, kind, block, options);
    diff(&ours, &theirs)
}

fn lacks_bits_only(ours: &PageBytes, theirs: &PageBytes) -> bool {
    let same_header = ours.get(10..HEADER_BYTES) == theirs.get(10..HEADER_BYTES);
    let mut bits = ours.iter().zip(theirs).skip(HEADER_BYTES);
    // Clearing bits moves the LSN from 17.11 on, but not where they are clear already, as here.
    lsn(ours) <= lsn(theirs) && same_header && bits.all(|(ours, theirs)| ours & !theirs == 0)
}

fn is_blank(bytes: &PageBytes) -> bool {
    lsn(bytes) == Lsn::INVALID && u16_at(bytes, 12).is_some_and(|lower| lower <= 24)
}

/// Masks the page in place; `block` is its number in the fork. A page of zeros stays as it is.
pub fn mask(bytes: &mut PageBytes, kind: PageKind, block: u32, options: MaskOptions) {
    if is_new(bytes) {
        return;
    }
    let mut page = Page::new(bytes);
    if options.lsn {
        page.set_lsn(Lsn::INVALID);
    }
    if options.checksum {
        page.set_checksum(0);
    }
    let lower = page.lower();
    match kind {
        PageKind::Heap => {
            mask_hints(&mut page);
            mask_unused(&mut page);
            mask_tuples(&mut page, block);
        }
        PageKind::Btree => mask_btree(&mut page),
        PageKind::Hash => mask_hash(&mut page),
        PageKind::Gin => mask_gin(&mut page),
        PageKind::Gist => mask_gist(&mut page),
        PageKind::Spgist => {
            mask_hints(&mut page);
            mask_unused(&mut page);
            if options.unlogged_values && flags_at(&page, 0) & SPGIST_META != 0 {
                fill(&mut page, HEADER_BYTES + 4..lower);
            }
        }
        PageKind::Brin => mask_brin(&mut page),
        PageKind::Sequence => {
            mask_unused(&mut page);
            let tuple = page.item_id(1).map_or(0, ItemId::offset);
            if options.unlogged_values && tuple > 0 {
                fill(&mut page, tuple + 24..tuple + 41); // last_value, log_cnt, is_called
            }
        }
        PageKind::Generic => mask_unused(&mut page),
        PageKind::Map => {}
    }
}

fn fill(page: &mut Page<'_>, range: std::ops::Range<usize>) {
    if let Some(bytes) = page.bytes.get_mut(range) {
        bytes.fill(0);
    }
}

/// Two bytes of the special space.
fn flags_at(page: &Page<'_>, at: usize) -> u16 {
    u16_at(page.special_bytes(), at).unwrap_or(0)
}

fn set_flags_at(page: &mut Page<'_>, at: usize, flags: u16) {
    if let Some(field) = page.special_bytes_mut().get_mut(at..at + 2) {
        field.copy_from_slice(&flags.to_le_bytes());
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
    let flags = flags_at(page, 12);
    if flags & LEAF != 0 {
        mask_item_states(page);
    }
    set_flags_at(page, 12, flags & !(BTREE_HAS_GARBAGE | BTREE_SPLIT_END));
    set_flags_at(page, 14, 0); // vacuum cycle
}

fn mask_hash(page: &mut Page<'_>) {
    mask_hints(page);
    mask_unused(page);
    let flags = flags_at(page, 12);
    if flags & HASH_PAGE_TYPE == 0 {
        mask_content(page);
        return;
    }
    if flags & HASH_OVERFLOW_OR_BUCKET != 0 {
        mask_item_states(page);
    }
    set_flags_at(page, 12, flags & !HASH_HAS_DEAD_TUPLES);
}

fn mask_gin(page: &mut Page<'_>) {
    mask_hints(page);
    if flags_at(page, 6) & GIN_DELETED != 0 {
        mask_content(page);
    } else if page.lower() > HEADER_BYTES {
        mask_unused(page);
    }
}

fn mask_gist(page: &mut Page<'_>) {
    mask_hints(page);
    mask_unused(page);
    let flags = flags_at(page, 12);
    if flags & LEAF != 0 {
        mask_item_states(page);
    }
    let special = page.special();
    fill(page, special..special + 8); // the sequence number that is an LSN
    // That tuples were deleted is noted by the minor releases up to 15.18 and not by 15.20, and read by none.
    let noise = GIST_HAS_GARBAGE | GIST_TUPLES_DELETED;
    set_flags_at(page, 12, (flags | GIST_FOLLOW_RIGHT) & !noise);
}

fn mask_brin(page: &mut Page<'_>) {
    mask_hints(page);
    let kind = flags_at(page, 6);
    if kind == BRIN_REGULAR || (kind == BRIN_META && page.lower() > HEADER_BYTES) {
        mask_unused(page);
    }
    let flags = flags_at(page, 4);
    set_flags_at(page, 4, flags & !BRIN_EVACUATE);
}

/// The states of line pointers, where they are set without WAL.
fn mask_item_states(page: &mut Page<'_>) {
    for number in 1..=page.item_count() {
        let Ok(id) = page.item_id(number) else { return };
        page.set_item_id(number, ItemId(id.0 & !(3 << 15)));
    }
}

/// Everything but the rest of the header (`mask_page_content`).
fn mask_content(page: &mut Page<'_>) {
    fill(page, HEADER_BYTES..PAGE_BYTES);
    page.set_lower(0);
    page.set_upper(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::tuple::{TUPLE_HEADER_BYTES, XMIN_COMMITTED};

    fn heap_page() -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        let mut page = Page::new(&mut bytes);
        page.init(0);
        page.set_lsn(Lsn(77));
        page.append_item(&[0; TUPLE_HEADER_BYTES + 4]).unwrap();
        bytes
    }

    fn differs(change: impl Fn(&mut Page<'_>)) -> Option<String> {
        let (ours, mut theirs) = (heap_page(), heap_page());
        change(&mut Page::new(&mut theirs));
        let found = compare(Some(&ours), &theirs, PageKind::Heap, 0, MaskOptions::POSTGRES);
        found.map(|difference| difference.to_string())
    }

    fn set_byte(at: usize) -> impl Fn(&mut Page<'_>) {
        move |page| page.write(at, &[0xEE]).unwrap()
    }

    #[test]
    fn hints_do_not_count_and_everything_else_does() {
        let tuple = 8160;
        for (name, hidden) in [
            ("LSN", differs(|page| page.set_lsn(Lsn(99)))),
            ("checksum", differs(|page| page.set_checksum(9))),
            ("prune xid", differs(|page| page.set_prune_xid(9))),
            ("flags", differs(|page| page.set_flag(ALL_VISIBLE | PAGE_FULL, true))),
            ("unused space", differs(set_byte(4000))),
            ("command id", differs(set_byte(tuple + 8))),
            ("padding", differs(set_byte(tuple + 28))),
            (
                "hint bits",
                differs(|page| {
                    let tuple = page.item_mut(1).unwrap();
                    Tuple::new(tuple).unwrap().set_infomask(XMIN_COMMITTED);
                }),
            ),
        ] {
            assert_eq!(hidden, None, "{name}");
        }
        for (name, shown) in [
            ("xmin", differs(set_byte(tuple))),
            ("ctid", differs(set_byte(tuple + 12))),
            ("data", differs(set_byte(tuple + 24))),
            ("line pointer", differs(set_byte(24))),
            ("another tuple", differs(|page| page.append_item(b"more").unwrap())),
        ] {
            assert!(shown.is_some(), "{name}");
        }
    }

    #[test]
    fn a_page_made_ready_without_wal_equals_none() {
        let mut bytes = [0; PAGE_BYTES];
        let compare_with_none =
            |bytes: &PageBytes| compare(None, bytes, PageKind::Heap, 0, MaskOptions::FILES);
        assert_eq!(compare_with_none(&bytes), None);
        Page::new(&mut bytes).init(0);
        assert_eq!(compare_with_none(&bytes), None);
        Page::new(&mut bytes).set_lsn(Lsn(5));
        assert!(compare_with_none(&bytes).is_some());
        assert!(compare_with_none(&heap_page()).is_some());
    }

    #[test]
    fn sequence_values_count_only_among_images() {
        let mut ours = [0; PAGE_BYTES];
        let mut page = Page::new(&mut ours);
        page.init(4);
        page.special_bytes_mut()[..2].copy_from_slice(&[0x17, 0x17]);
        page.append_item(&[3; 41]).unwrap();
        let mut theirs = ours;
        Page::new(&mut theirs).item_mut(1).unwrap()[24] = 4;
        let kind = PageKind::of_page(&ours, Fork::Main);
        assert_eq!(kind, PageKind::Sequence);
        assert!(compare(Some(&ours), &theirs, kind, 0, MaskOptions::POSTGRES).is_some());
        assert_eq!(compare(Some(&ours), &theirs, kind, 0, MaskOptions::FILES), None);
        Page::new(&mut theirs).item_mut(1).unwrap()[0] = 9;
        assert!(compare(Some(&ours), &theirs, kind, 0, MaskOptions::FILES).is_some());
    }

    #[test]
    fn our_map_may_lack_bits_but_have_none_too_many() {
        let mut ours = [0; PAGE_BYTES];
        Page::new(&mut ours).init(0);
        let mut theirs = ours;
        ours[30] = 0b0100;
        theirs[30] = 0b1100;
        let found = |ours: &PageBytes, theirs: &PageBytes, options| {
            compare(Some(ours), theirs, PageKind::Map, 0, options)
        };
        assert_eq!(found(&ours, &theirs, MaskOptions::FILES), None);
        assert!(found(&theirs, &ours, MaskOptions::FILES).is_some());
        assert!(found(&ours, &theirs, MaskOptions::POSTGRES).is_some());
        Page::new(&mut theirs).set_lsn(Lsn(9));
        assert_eq!(found(&ours, &theirs, MaskOptions::FILES), None);
        Page::new(&mut ours).set_lsn(Lsn(10));
        assert!(found(&ours, &theirs, MaskOptions::FILES).is_some());
    }
}
