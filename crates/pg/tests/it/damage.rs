//! Records of real servers, damaged at random but always in the same way: never a panic, and errors tell where.
//!
//! The fuzz targets (`/fuzz`) do the same for longer, led by coverage. Redo is damaged in `redo/fixture.rs`.

use pg::lsn::Lsn;
use pg::redo::effects::{Change, Checkpoint, Parameters, effects};
use pg::redo::visibility::implied_vm_clears;
use pg::redo::{Options, redo as redo_page};
use pg::state::{Counters, Sizes, Touch, redo, touches};
use pg::wal::cursor::Cursor;
use pg::wal::reader::StreamDecoder;
use pg::wal::record::RawRecord;
use pg::wal::segment::{LONG_HEADER, WalVersion};

/// Records that do more than change pages (`state/postgres.rs` captures them), and such as change pages.
const CHANGES: [(WalVersion, &[u8]); 2] = [
    (WalVersion::V15, include_bytes!("../../test_data/15/changes.zst")),
    (WalVersion::V18, include_bytes!("../../test_data/18/changes.zst")),
];
const PAGES: &[u8] = include_bytes!("../../test_data/15/records.zst");
const BYTES_MAX: usize = 16 << 20;
const START: Lsn = Lsn(7 << 20);
const SEGMENT: u32 = 1 << 20;

struct Seed {
    version: WalVersion,
    lsn: Lsn,
    end: Lsn,
    bytes: Vec<u8>,
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound.max(1)
    }

    /// Flips some bytes, mostly near the front, and sometimes cuts or repeats.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _each in 0..=self.below(3) {
            let near = if self.below(2) == 0 { 80 } else { bytes.len() };
            let (at, value) = (self.below(near), self.below(256));
            match self.below(8) {
                0 => bytes.truncate(bytes.len() - self.below(bytes.len() / 2 + 1)),
                1 => bytes.extend_from_within(bytes.len() / 2..),
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = if value < 64 { 0xFF } else { value.to_le_bytes()[0] };
                    }
                }
            }
        }
    }
}

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (version, file) in CHANGES {
        read(version, file, false, &mut seeds);
    }
    read(WalVersion::V15, PAGES, true, &mut seeds);
    seeds
}

fn read(version: WalVersion, file: &[u8], has_pages: bool, seeds: &mut Vec<Seed>) {
    let bytes = zstd::bulk::decompress(file, BYTES_MAX).unwrap();
    let mut cursor = Cursor::new(&bytes);
    while !cursor.is_empty() {
        let (lsn, end) = (cursor.lsn().unwrap(), cursor.lsn().unwrap());
        let length = usize::try_from(cursor.u32().unwrap()).unwrap();
        let bytes = cursor.bytes(length).unwrap().to_vec();
        let raw = RawRecord::new(&bytes, lsn, end, version).unwrap();
        for _block in 0..if has_pages { raw.decode().unwrap().blocks.len() } else { 0 } {
            if cursor.bool().unwrap() {
                cursor.bytes(8192).unwrap();
            }
        }
        seeds.push(Seed { version, lsn, end, bytes });
    }
}

#[test]
fn damaged_records_are_errors_that_tell_where() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut decoded, mut refused) = (0, 0);
    for seed in seeds() {
        for _round in 0..60 {
            let mut bytes = seed.bytes.clone();
            random.damage(&mut bytes);
            if bytes.len() < 24 {
                continue;
            }
            let length = u32::try_from(bytes.len()).unwrap();
            bytes[..4].copy_from_slice(&length.to_le_bytes());
            let raw = RawRecord::new(&bytes, seed.lsn, seed.end, seed.version).unwrap();
            let told = match raw.decode() {
                Ok(record) => {
                    decoded += 1;
                    assert!(implied_vm_clears(&record).count() <= 2);
                    assert!(!record.summary().to_string().is_empty());
                    for block in &record.blocks {
                        let mut page = [0; 8192];
                        if let Err(error) =
                            redo_page(&record, block.id, &mut page, Options::default())
                        {
                            assert!(error.to_string().contains(&seed.lsn.to_string()), "{error}");
                        }
                    }
                    effects(&record).map(|changes| follow(&changes, &mut random)).err()
                }
                Err(error) => Some(error),
            };
            if let Some(error) = told {
                refused += 1;
                assert!(error.to_string().contains(&seed.lsn.to_string()), "{error}");
            }
        }
    }
    assert!(decoded > 2000 && refused > 2000, "{decoded} {refused}");
}

/// Takes changes that make no sense into values that are none.
fn follow(changes: &[Change<'_>], random: &mut Random) {
    let parameters = Parameters {
        max_connections: 1,
        max_worker_processes: 1,
        max_wal_senders: 1,
        max_prepared_transactions: 1,
        max_locks_per_transaction: 1,
        wal_level: 1,
        wal_log_hints: false,
        track_commit_timestamp: random.below(2) == 0,
    };
    let checkpoint = Checkpoint::parse(&[0xFE; Checkpoint::BYTES], false).unwrap();
    let mut counters = Counters { checkpoint, parameters };
    let mut sizes = Sizes::default();
    for change in changes {
        for touch in touches(change, &counters) {
            let Touch::Redo(key) = touch else { continue };
            let mut value = vec![0xA5; [0, 16, 8191, 8192][random.below(4)]];
            let before = value.clone();
            if redo(key, &mut value, change).is_err() {
                assert_eq!(value, before);
            }
        }
        counters.apply(change);
        sizes.apply(change);
    }
    assert_eq!(Counters::from_bytes(&counters.to_bytes()), Some(counters));
}

#[test]
fn a_damaged_stream_ends_in_an_error_and_never_stands_still() {
    let mut random = Random(0xD1B5_4A32_D192_ED03);
    let whole = stream(&seeds());
    let mut records = 0;
    for round in 0..300 {
        let mut bytes = whole.clone();
        for _each in 0..round % 5 {
            let (at, value) = (random.below(bytes.len()), random.below(256));
            bytes[at] = value.to_le_bytes()[0];
        }
        let piece = 1 + random.below(20_000);
        let mut decoder = StreamDecoder::resync(START, SEGMENT);
        'stream: for mut piece in bytes.chunks(piece) {
            loop {
                let left = piece.len();
                match decoder.next(&mut piece) {
                    Ok(Some(raw)) => {
                        records += 1;
                        raw.verify().unwrap();
                    }
                    Ok(None) => break assert!(piece.is_empty(), "{left} bytes left"),
                    Err(error) => {
                        assert!(!error.to_string().is_empty());
                        break 'stream;
                    }
                }
            }
        }
    }
    assert!(records > 10_000, "{records}");
}

/// The records one after another on pages with headers, each naming the one before.
fn stream(seeds: &[Seed]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut previous = START.0 - 40;
    for seed in seeds.iter().filter(|seed| seed.version == WalVersion::V15) {
        if bytes.len() + seed.bytes.len() > 1 << 19 {
            break;
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        if bytes.len().is_multiple_of(8192) {
            header(&mut bytes, 0);
        }
        let at = START.0 + u64::try_from(bytes.len()).unwrap();
        let record = linked(&seed.bytes, previous);
        previous = at;
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            let used = bytes.len() % 8192;
            if used == 0 {
                header(&mut bytes, u32::try_from(rest.len()).unwrap());
                continue;
            }
            let (here, later) = rest.split_at(rest.len().min(8192 - used));
            bytes.extend_from_slice(here);
            rest = later;
        }
    }
    bytes
}

fn linked(record: &[u8], previous: u64) -> Vec<u8> {
    let mut record = record.to_vec();
    record[8..16].copy_from_slice(&previous.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
    record[20..24].copy_from_slice(&crc.to_le_bytes());
    record
}

fn header(bytes: &mut Vec<u8>, rest: u32) {
    let first = bytes.is_empty();
    let address = START.0 + u64::try_from(bytes.len()).unwrap();
    let flags = u16::from(rest > 0) | if first { LONG_HEADER } else { 0 };
    bytes.extend_from_slice(&WalVersion::V15.magic().to_le_bytes());
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    bytes.extend_from_slice(&address.to_le_bytes());
    bytes.extend_from_slice(&rest.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    if first {
        bytes.extend_from_slice(&7_u64.to_le_bytes());
        bytes.extend_from_slice(&SEGMENT.to_le_bytes());
        bytes.extend_from_slice(&8192_u32.to_le_bytes());
    }
}
