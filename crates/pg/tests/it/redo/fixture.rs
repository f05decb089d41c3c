//! Captured records, judged without a server: a few of each kind with the pages they change; of majors other
//! than 15 only the kinds that differ from it.
//!
//! A file is zstd over entries of: LSN, end LSN (8 bytes each), record length (4), the record, then for
//! each of its blocks the page before it (a zero byte for none, else a one and 8 KiB).

use std::collections::BTreeMap;

use pg::datadir::relation::Fork;
use pg::lsn::Lsn;
use pg::page::mask::{MaskOptions, PageKind, compare};
use pg::page::{PAGE_BYTES, PageBytes};
use pg::redo::{Options, Outcome, redo};
use pg::wal::cursor::Cursor;
use pg::wal::record::{RawRecord, Record};
use pg::wal::rmgr::Rmgr;
use pg::wal::segment::WalVersion;

const CAPTURED: [(WalVersion, &[u8]); 5] = [
    (WalVersion::V14, include_bytes!("../../../test_data/14/records.zst")),
    (WalVersion::V15, include_bytes!("../../../test_data/15/records.zst")),
    (WalVersion::V16, include_bytes!("../../../test_data/16/records.zst")),
    (WalVersion::V17, include_bytes!("../../../test_data/17/records.zst")),
    (WalVersion::V18, include_bytes!("../../../test_data/18/records.zst")),
];
/// More than the file unpacks to.
const BYTES_MAX: usize = 16 << 20;

/// What to capture: of each kind the first record, and some later ones, which differ more.
const CAPTURED_OF_A_KIND: [usize; 4] = [1, 4, 25, 200];

/// Collects entries while a whole workload is redone.
#[derive(Default)]
pub(super) struct Capture {
    counts: BTreeMap<String, usize>,
    bytes: Vec<u8>,
}

impl Capture {
    /// Takes the record if it is one of those to be captured; `before` answers the pages before it.
    pub(super) fn offer<'p>(
        &mut self,
        raw: &RawRecord<'_>,
        record: &Record<'_>,
        before: impl Fn(usize) -> Option<&'p PageBytes>,
    ) {
        if record.version != WalVersion::V15 && !differs_from_15(record) {
            return;
        }
        let judged = record.blocks.iter().all(|b| b.image.is_some_and(|image| !image.apply));
        if record.blocks.is_empty() || !judged {
            return;
        }
        let count = self.counts.entry(record.kind().to_string()).or_default();
        *count += 1;
        if !CAPTURED_OF_A_KIND.contains(count) {
            return;
        }
        self.bytes.extend_from_slice(&raw.lsn.0.to_le_bytes());
        self.bytes.extend_from_slice(&raw.end_lsn.0.to_le_bytes());
        self.bytes.extend_from_slice(&raw.header.total_length.to_le_bytes());
        self.bytes.extend_from_slice(raw.bytes);
        for index in 0..record.blocks.len() {
            let needed = !record.blocks[index].will_init;
            match before(index).filter(|_| needed) {
                None => self.bytes.push(0),
                Some(page) => {
                    self.bytes.push(1);
                    self.bytes.extend_from_slice(page);
                }
            }
        }
    }

    pub(super) fn compressed(&self) -> Vec<u8> {
        zstd::bulk::compress(&self.bytes, 19).unwrap()
    }
}

/// Kinds whose layout or redo changed from or to 15, and records that name a visibility map's block.
fn differs_from_15(record: &Record<'_>) -> bool {
    let changed = match (record.rmgr(), record.kind_bits() & 0x70) {
        (Rmgr::HEAP, 0x70) => record.version == WalVersion::V18,
        (Rmgr::HEAP2, 0x10 | 0x20 | 0x30) => true,
        (Rmgr::HASH, _) => record.kind_bits() == 0xC0,
        (Rmgr::GIST, kind) => kind == 0x10,
        (Rmgr::SPGIST, _) => record.kind_bits() == 0x80,
        _ => false,
    };
    let names_map = record.blocks.iter().any(|block| block.tag.fork == Fork::Vm);
    changed || (names_map && record.rmgr() == Rmgr::HEAP)
}

#[test]
fn captured_records_make_the_captured_pages() {
    let mut kinds = BTreeMap::new();
    each_captured(|_raw, record, index, page| {
        let block = &record.blocks[index];
        let kind = record.kind();
        let outcome = redo(record, block.id, page, Options::default()).unwrap();
        if outcome == Outcome::NotApplicable {
            return;
        }
        assert_eq!(outcome, Outcome::Applied, "{kind}");
        let mut expected = [0; PAGE_BYTES];
        block.image.unwrap().restore(&mut expected).unwrap();
        // Postgres' mask for heap records would hide all of a visibility map's page.
        let is_map = block.tag.fork == Fork::Vm;
        let mask = if is_map { PageKind::Map } else { PageKind::of_rmgr(record.rmgr()) };
        let found = compare(Some(page), &expected, mask, block.number, MaskOptions::POSTGRES);
        assert_eq!(found.map(|difference| difference.to_string()), None, "{kind}");
        *kinds.entry(kind.to_string()).or_insert(0) += 1;
        let again = redo(record, block.id, page, Options::default()).unwrap();
        assert!(block.will_init || again == Outcome::Skipped || kind.name() == Some("VISIBLE"));
    });
    println!("{kinds:?}");
    assert!(kinds.len() >= 68, "{}", kinds.len());
}

#[test]
fn damaged_records_and_pages_are_errors_or_pages_and_never_a_panic() {
    let mut random = 0x2545_F491_4F6C_DD1D_u64;
    let mut errors = 0;
    each_captured(|_raw, record, index, page| {
        let block = &record.blocks[index];
        for round in 0..40_u32 {
            let (mut data, mut main) = (block.data.to_vec(), record.main_data.to_vec());
            let mut broken = *page;
            for bytes in [&mut data[..], &mut main[..], &mut broken[..]] {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let place = usize::try_from(random % 16_384).unwrap();
                // Headers and line pointers are where damage hurts.
                let place = if round % 2 == 0 { place % 64 } else { place };
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= random.to_le_bytes()[7] | 1;
                }
            }
            if round % 8 == 7 {
                data.truncate(data.len() / 2);
                main.truncate(main.len() / 2);
            }
            let mut copy = record.clone();
            copy.main_data = &main;
            copy.blocks[index].data = &data;
            errors += i32::from(redo(&copy, block.id, &mut broken, Options::default()).is_err());
        }
    });
    assert!(errors > 500, "{errors}");
}

#[test]
fn a_record_without_other_blocks_images_does_the_same() {
    let (mut shorter, mut bytes) = (0, Vec::new());
    each_captured(|raw, record, index, page| {
        let id = record.blocks[index].id;
        bytes.clear();
        raw.write_with_image_of(Some(id), &mut bytes).unwrap();
        shorter += raw.bytes.len() - bytes.len();
        let excerpt = RawRecord::new(&bytes, raw.lsn, raw.end_lsn, raw.version).unwrap();
        let excerpt = excerpt.decode().unwrap();
        assert_eq!(excerpt.blocks.iter().filter(|block| block.image.is_some()).count(), 1);
        let mut other = *page;
        let outcome = redo(record, id, page, Options::default());
        assert_eq!(redo(&excerpt, id, &mut other, Options::default()), outcome);
        assert!(other == *page, "{}", record.kind());
    });
    assert!(shorter > 1 << 20, "{shorter}");
}

/// Calls with every captured record, block index and page before it.
fn each_captured(mut call: impl FnMut(&RawRecord<'_>, &Record<'_>, usize, &mut PageBytes)) {
    for (version, captured) in CAPTURED {
        each_captured_of(version, captured, &mut call);
    }
}

fn each_captured_of(
    version: WalVersion,
    captured: &[u8],
    call: &mut impl FnMut(&RawRecord<'_>, &Record<'_>, usize, &mut PageBytes),
) {
    let bytes = zstd::bulk::decompress(captured, BYTES_MAX).unwrap();
    let mut cursor = Cursor::new(&bytes);
    while !cursor.is_empty() {
        let (lsn, end) = (cursor.lsn().unwrap(), cursor.lsn().unwrap());
        let length = usize::try_from(cursor.u32().unwrap()).unwrap();
        let bytes = cursor.bytes(length).unwrap();
        let raw = RawRecord::new(bytes, lsn, end, version).unwrap();
        raw.verify().unwrap();
        let record = raw.decode().unwrap();
        assert!(raw.lsn < Lsn::MAX);
        for index in 0..record.blocks.len() {
            let mut page = [0; PAGE_BYTES];
            if cursor.bool().unwrap() {
                page = cursor.array().unwrap();
            }
            call(&raw, &record, index, &mut page);
        }
    }
}
