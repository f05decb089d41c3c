//! Records and pages of real servers, which targets damage as their input says: so fuzzing begins deep inside.
//!
//! The files are those of the tests of `pg`; how they are made is said there.

use std::sync::OnceLock;

use pg::lsn::Lsn;
use pg::page::{PAGE_BYTES, PageBytes};
use pg::wal::cursor::Cursor;
use pg::wal::record::{RawRecord, Record};
use pg::wal::segment::WalVersion;

/// A record, and each of its blocks as it was before.
pub struct Seed {
    pub version: WalVersion,
    pub lsn: Lsn,
    pub end: Lsn,
    pub record: Vec<u8>,
    pub pages: Vec<PageBytes>,
}

/// Records that change pages, of all majors.
pub fn records() -> &'static [Seed] {
    static SEEDS: OnceLock<Vec<Seed>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let files: [(WalVersion, &[u8]); 5] = [
            (WalVersion::V15, include_bytes!("../../crates/pg/test_data/15/records.zst")),
            (WalVersion::V14, include_bytes!("../../crates/pg/test_data/14/records.zst")),
            (WalVersion::V16, include_bytes!("../../crates/pg/test_data/16/records.zst")),
            (WalVersion::V17, include_bytes!("../../crates/pg/test_data/17/records.zst")),
            (WalVersion::V18, include_bytes!("../../crates/pg/test_data/18/records.zst")),
        ];
        files.into_iter().flat_map(|(version, file)| read(version, file, true)).collect()
    })
}

/// Records that change other things than pages.
pub fn changes() -> &'static [Seed] {
    static SEEDS: OnceLock<Vec<Seed>> = OnceLock::new();
    SEEDS.get_or_init(|| {
        let files: [(WalVersion, &[u8]); 2] = [
            (WalVersion::V15, include_bytes!("../../crates/pg/test_data/15/changes.zst")),
            (WalVersion::V18, include_bytes!("../../crates/pg/test_data/18/changes.zst")),
        ];
        files.into_iter().flat_map(|(version, file)| read(version, file, false)).collect()
    })
}

fn read(version: WalVersion, file: &[u8], has_pages: bool) -> Vec<Seed> {
    let bytes = zstd::bulk::decompress(file, 16 << 20).unwrap();
    let mut cursor = Cursor::new(&bytes);
    let mut seeds = Vec::new();
    while !cursor.is_empty() {
        let (lsn, end) = (cursor.lsn().unwrap(), cursor.lsn().unwrap());
        let length = usize::try_from(cursor.u32().unwrap()).unwrap();
        let record = cursor.bytes(length).unwrap().to_vec();
        let blocks =
            RawRecord::new(&record, lsn, end, version).unwrap().decode().unwrap().blocks.len();
        let mut pages = Vec::new();
        for _ in 0..if has_pages { blocks } else { 0 } {
            let known = cursor.bool().unwrap();
            pages.push(if known { cursor.array().unwrap() } else { [0; PAGE_BYTES] });
        }
        seeds.push(Seed { version, lsn, end, record, pages });
    }
    seeds
}

/// What to do, read from the fuzzer's input; zeroes once that is used up.
pub struct Script<'a>(pub &'a [u8]);

impl Script<'_> {
    pub fn u8(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or(0)
    }

    pub fn u16(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.u8(), self.u8()]))
    }

    /// Changes bytes, some times.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.u8() % 8 {
            let (what, at) = (self.u8(), self.u16());
            // Headers are short; most of a page is not.
            let at = if what & 4 == 0 { at & 63 } else { at & 0x3FFF };
            match what & 3 {
                0 => bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= self.u8()),
                1 => {
                    let value = [self.u8(), self.u8()];
                    bytes
                        .get_mut(at..at + 2)
                        .into_iter()
                        .for_each(|place| place.copy_from_slice(&value));
                }
                2 => bytes.truncate(bytes.len().saturating_sub(at)),
                _ => {
                    let from = self.u16().min(bytes.len());
                    let moved = bytes[from..bytes.len().min(from + at)].to_vec();
                    bytes.splice(from..from, moved);
                }
            }
        }
    }
}

/// Calls with the damaged record if it can still be cut into its parts; its length and checksum are put right.
pub fn with_damaged(
    seed: &Seed,
    script: &mut Script<'_>,
    call: impl FnOnce(&Record<'_>, &mut Script<'_>),
) {
    let mut bytes = seed.record.clone();
    script.damage(&mut bytes);
    if bytes.len() < 24 {
        return;
    }
    let length = u32::try_from(bytes.len()).unwrap();
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    let raw = RawRecord::new(&bytes, seed.lsn, seed.end, seed.version).unwrap();
    for block in raw.block_refs() {
        if block.is_err() {
            break;
        }
    }
    match raw.decode() {
        Ok(record) => call(&record, script),
        Err(error) => assert!(error.to_string().contains(&seed.lsn.to_string()), "{error}"),
    }
}
