//! Whether two versions of a page are the same but for what Postgres changes without WAL.

use pg::datadir::relation::{Fork, RelTag};
use pg::page::diff::diff;
use pg::page::header::{HEADER_BYTES, lsn};
use pg::page::mask::{MaskOptions, PageKind, mask};

use crate::page_cache::Page;

/// Values that `nextval` logs in advance (`SEQ_LOG_VALS`), besides those of the cache.
const SEQUENCE_VALUES_AHEAD_MAX: i64 = 32;

/// What a comparison says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    /// The same, but the sequence's WAL is ahead by as many values as `log_cnt` says.
    SequenceAhead,
    /// The same last record of the WAL, but bits that were never in it are missing from our map:
    /// `CREATE DATABASE … STRATEGY wal_log` logs the map's pages as if their content were unused.
    MapBehind,
    Different(String),
}

/// Compares the file's page with the rebuilt one.
pub(super) fn compare(tag: RelTag, block: u32, theirs: &Page, ours: &Page) -> Verdict {
    let kind = PageKind::of_page(theirs, tag.fork);
    let (mut one, mut other) = (*theirs, *ours);
    // A sequence's values are not masked: how far they may differ is known exactly.
    let options = match kind {
        PageKind::Sequence => MaskOptions::POSTGRES,
        _ => MaskOptions::FILES,
    };
    mask(&mut one, kind, block, options);
    mask(&mut other, kind, block, options);
    let Some(found) = diff(&one, &other) else { return Verdict::Same };
    if kind == PageKind::Sequence && is_ahead(&one, &other) {
        return Verdict::SequenceAhead;
    }
    if tag.fork == Fork::Vm && is_behind(theirs, ours) {
        return Verdict::MapBehind;
    }
    Verdict::Different(format!("{found} (the cluster's against the page server's)"))
}

/// Whether Postgres may have made this page without WAL: zeroes, or an empty page of the map.
pub(super) fn is_unused(tag: RelTag, page: &Page) -> bool {
    match tag.fork {
        Fork::Vm => page[HEADER_BYTES..].iter().all(|&byte| byte == 0),
        _ => page.iter().all(|&byte| byte == 0),
    }
}

/// Whether the map pages are as of the same record, and ours has no bit that theirs has not.
fn is_behind(theirs: &Page, ours: &Page) -> bool {
    let (one, other) = (&theirs[HEADER_BYTES..], &ours[HEADER_BYTES..]);
    lsn(theirs) == lsn(ours) && one.iter().zip(other).all(|(theirs, ours)| ours & !theirs == 0)
}

fn word(page: &Page, at: usize) -> u32 {
    page.get(at..at + 4)
        .map_or(0, |bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// A sequence's one row (`FormData_pg_sequence_data`).
struct SequenceRow {
    last_value: i64,
    log_count: i64,
    is_called: bool,
    /// Where it is in the page.
    place: std::ops::Range<usize>,
}

impl SequenceRow {
    fn read(page: &Page) -> Option<SequenceRow> {
        let tuple = (word(page, HEADER_BYTES) & 0x7FFF) as usize;
        let start = tuple + usize::from(*page.get(tuple + 22)?);
        let place = start..start + 17;
        let row = page.get(place.clone())?;
        let (numbers, called) = row.as_chunks::<8>();
        let [last_value, log_count] = numbers else { return None };
        Some(SequenceRow {
            last_value: i64::from_le_bytes(*last_value),
            log_count: i64::from_le_bytes(*log_count),
            is_called: called.first()? & 1 != 0,
            place,
        })
    }
}

/// Whether the pages differ in the row only, and the row of the WAL is what `nextval` logs in
/// advance: `log_cnt` steps ahead.
fn is_ahead(theirs: &Page, ours: &Page) -> bool {
    let (Some(file), Some(wal)) = (SequenceRow::read(theirs), SequenceRow::read(ours)) else {
        return false;
    };
    let (mut one, mut other) = (*theirs, *ours);
    one[file.place.clone()].fill(0);
    other[file.place].fill(0);
    let ahead = i128::from(wal.last_value) - i128::from(file.last_value);
    one == other
        && wal.is_called
        && wal.log_count == 0
        && (1..=SEQUENCE_VALUES_AHEAD_MAX).contains(&file.log_count)
        && ahead != 0
        && ahead % i128::from(file.log_count) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::PAGE_BYTES;
    use pg::datadir::relation::RelNode;

    const TAG: RelTag = RelNode::new(1663, 5, 16384).fork(Fork::Main);

    /// A page with one tuple of 24 + 17 bytes at the end, before `special` bytes.
    fn page_with_tuple(special: &[u8]) -> Page {
        let mut page = [0; PAGE_BYTES];
        let mut writer = pg::page::Page::new(&mut page);
        writer.init(special.len());
        let mut tuple = [0; 41];
        tuple[22] = 24;
        writer.append_item(&tuple).expect("there is room");
        page[PAGE_BYTES - special.len()..].copy_from_slice(special);
        page
    }

    fn sequence(last_value: i64, log_count: i64) -> Page {
        let mut page = page_with_tuple(&[0x17, 0x17, 0, 0, 0, 0, 0, 0]);
        let start = SequenceRow::read(&page).expect("there is a row").place.start;
        page[start..start + 8].copy_from_slice(&last_value.to_le_bytes());
        page[start + 8..start + 16].copy_from_slice(&log_count.to_le_bytes());
        page[start + 16] = 1;
        page
    }

    #[test]
    fn a_byte_of_a_tuple_is_a_difference_and_its_lsn_is_none() {
        let one = page_with_tuple(&[]);
        let mut other = one;
        other[0] = 1;
        assert_eq!(compare(TAG, 0, &one, &other), Verdict::Same);
        other[PAGE_BYTES - 10] ^= 1;
        assert!(matches!(compare(TAG, 0, &one, &other), Verdict::Different(_)));
    }

    #[test]
    fn a_sequence_may_be_ahead_by_what_it_says_and_no_more() {
        let verdict = |file: Page, wal: Page| compare(TAG, 0, &file, &wal);
        assert_eq!(verdict(sequence(7, 0), sequence(7, 0)), Verdict::Same);
        assert_eq!(verdict(sequence(1, 32), sequence(33, 0)), Verdict::SequenceAhead);
        assert_eq!(verdict(sequence(10, 30), sequence(310, 0)), Verdict::SequenceAhead);
        assert_eq!(verdict(sequence(-1, 32), sequence(-33, 0)), Verdict::SequenceAhead);
        for (file, wal) in
            [((1, 32), (34, 0)), ((1, 0), (33, 0)), ((1, 33), (34, 0)), ((1, 32), (33, 1))]
        {
            let (file, wal) = (sequence(file.0, file.1), sequence(wal.0, wal.1));
            assert!(matches!(verdict(file, wal), Verdict::Different(_)));
        }
    }

    #[test]
    fn a_map_may_miss_bits_only_as_of_the_same_record() {
        let map = TAG.with_fork(Fork::Vm);
        let (mut file, mut wal) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
        for page in [&mut file, &mut wal] {
            let mut page = pg::page::Page::new(page);
            page.init(0);
            page.set_lsn(pg::lsn::Lsn(77));
        }
        file[100] = 0b11;
        assert_eq!(compare(map, 0, &file, &wal), Verdict::MapBehind);
        assert!(matches!(compare(map, 0, &wal, &file), Verdict::Different(_)));
        pg::page::Page::new(&mut wal).set_lsn(pg::lsn::Lsn(76));
        assert!(matches!(compare(map, 0, &file, &wal), Verdict::Different(_)));
    }

    #[test]
    fn a_page_made_without_wal_is_all_zeroes_or_an_empty_map() {
        let map = TAG.with_fork(Fork::Vm);
        let mut page = [0; PAGE_BYTES];
        assert!(is_unused(TAG, &page));
        pg::page::Page::new(&mut page).init(0);
        assert!(!is_unused(TAG, &page));
        assert!(is_unused(map, &page));
        page[100] = 1;
        assert!(!is_unused(map, &page));
    }
}
