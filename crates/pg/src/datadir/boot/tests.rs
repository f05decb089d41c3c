//! Boot images for every place where a checkpoint can come to stand, read back by our own reader; what the server
//! makes of them is in `tests/it`.

use super::*;
use crate::oid::Oid;
use crate::redo::effects::{Change, effects};
use crate::wal::reader::StreamDecoder;

const SEGMENT: u32 = 1 << 20;
const SYSTEM: u64 = 0x0123_4567_89AB_CDEF;

fn counters() -> Checkpoint {
    Checkpoint {
        shutdown: true,
        redo: Lsn(0x10_0028),
        timeline: 1,
        previous_timeline: 1,
        full_page_writes: true,
        next_xid: 1 << 32 | 7000,
        next_oid: Oid(24_576),
        next_multi: 9,
        next_multi_offset: 30,
        oldest_xid: 700,
        oldest_xid_database: Oid(1),
        oldest_multi: 1,
        oldest_multi_database: Oid(5),
        time: 1_700_000_000,
        oldest_commit_timestamp_xid: 3,
        newest_commit_timestamp_xid: 6999,
        oldest_active_xid: 0,
    }
}

fn parameters() -> Parameters {
    Parameters {
        max_connections: 100,
        max_worker_processes: 8,
        max_wal_senders: 10,
        max_prepared_transactions: 5,
        max_locks_per_transaction: 64,
        wal_level: 1,
        wal_log_hints: true,
        track_commit_timestamp: true,
    }
}

/// A control file in production, with a checkpoint of `counters`.
fn earlier(counters: &Checkpoint) -> Vec<u8> {
    let mut file = vec![0; ControlFile::CHECKSUM_AT];
    let mut copy = Vec::new();
    counters.write(WalVersion::V15, 1, &mut copy);
    for (at, bytes) in [
        (0, &SYSTEM.to_le_bytes()[..]),
        (8, &1300_u32.to_le_bytes()),
        (12, &202_209_061_u32.to_le_bytes()),
        (16, &6_u32.to_le_bytes()),
        (32, &counters.redo.0.to_le_bytes()),
        (40, &copy),
        (136, &77_u64.to_le_bytes()),
        (204, &8_u32.to_le_bytes()),
        (208, &1_234_567.0_f64.to_le_bytes()),
        (216, &8192_u32.to_le_bytes()),
        (220, &131_072_u32.to_le_bytes()),
        (224, &8192_u32.to_le_bytes()),
        (228, &SEGMENT.to_le_bytes()),
        (248, &[1]),
        (252, &1_u32.to_le_bytes()),
        (256, &[0xAB; 32]),
    ] {
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file.resize(FILE_BYTES, 0);
    file
}

fn facts(control: &[u8], end: u64) -> Facts<'_> {
    let mut counters = counters();
    counters.next_xid += 100;
    Facts {
        control,
        end: Lsn(end),
        last_record: Lsn(end - 40),
        timeline: 1,
        counters,
        parameters: parameters(),
        time: 1_800_000_000,
        wal: &[],
    }
}

/// The image's WAL as a server finds it: whole pages, in segments that have their first header.
fn check_reads_back(end: u64, checkpoint: u64, pages: u64) {
    let control = earlier(&counters());
    let image = BootImage::new(&facts(&control, end)).unwrap();
    assert_eq!(image.checkpoint, Lsn(checkpoint), "{end:x}");
    assert_eq!(image.wal.len() as u64, image.end.0 - image.wal_start.0);
    assert_eq!(image.end.0.div_ceil(PAGE_BYTES) - image.wal_start.0 / PAGE_BYTES, pages);
    let mut decoder = StreamDecoder::at_record(image.checkpoint, SEGMENT)
        .expect_system(SYSTEM)
        .assume_version(WalVersion::V15);
    let at = usize::try_from(image.checkpoint.0 - image.wal_start.0).unwrap();
    let mut input = &image.wal[at..];
    let raw = decoder.next(&mut input).unwrap().unwrap();
    assert_eq!((raw.lsn, raw.end_lsn.0), (image.checkpoint, image.end.0));
    assert_eq!(raw.header.previous, Lsn(end - 40));
    let expected = Checkpoint {
        redo: image.checkpoint,
        time: 1_800_000_000,
        next_xid: 1 << 32 | 7100,
        ..counters()
    };
    let record = raw.decode().unwrap();
    assert_eq!(effects(&record).unwrap(), [Change::Checkpoint(expected)]);
    let written = ControlFile::parse(&image.control).unwrap();
    assert_eq!(written.state, crate::datadir::control::State::ShutDown);
    assert_eq!((written.checkpoint_lsn, written.checkpoint), (image.checkpoint, expected));
    assert_eq!((written.minimum_recovery_point, written.backup_start), (Lsn(0), Lsn(0)));
    assert_eq!((written.parameters, written.checksum_version), (parameters(), 1));
    assert_eq!(image.control[256..288], [0xAB; 32], "the nonce stays");
}

#[test]
fn a_checkpoint_stands_wherever_a_record_can_begin() {
    for (end, checkpoint, pages) in [
        (0x20_4000 + 100, 0x20_4000 + 104, 1), // in a page
        (0x20_4000, 0x20_4000 + 24, 1),        // at the start of a page
        (0x20_3FFC, 0x20_4000 + 24, 2),        // the last bytes of a page are padding
        (0x20_3FF0, 0x20_3FF0, 2),             // the record's header crosses a page's end
        (0x20_3FB0, 0x20_3FB0, 2),             // its data does
        (0x20_0000, 0x20_0000 + 40, 1),        // at the start of a segment
        (0x1F_FFF8, 0x1F_FFF8, 2),             // from one segment into the next
    ] {
        check_reads_back(end, checkpoint, pages);
    }
}

#[test]
fn the_wal_before_the_checkpoint_is_kept() {
    let control = earlier(&counters());
    let wal: Vec<u8> = (0..100_u8).collect();
    let facts = Facts { wal: &wal, ..facts(&control, 0x20_4000 + 100) };
    let image = BootImage::new(&facts).unwrap();
    assert_eq!(image.wal[..100], wal[..]);
    assert_eq!(image.wal[100..104], [0; 4]);
    let cut = Facts { wal: &wal[1..], ..facts };
    assert!(BootImage::new(&cut).is_err());
}

#[test]
fn a_page_without_its_wal_says_that_a_record_ends_before_the_checkpoint() {
    let control = earlier(&counters());
    let image = BootImage::new(&facts(&control, 0x20_4000 + 100)).unwrap();
    let header = crate::wal::segment::PageHeader::parse(&image.wal, Lsn(0x20_4000)).unwrap();
    assert_eq!((header.flags, header.rest), (CONTRECORD, 104 - 24));
}

#[test]
fn facts_that_do_not_add_up_are_refused() {
    let control = earlier(&counters());
    let good = facts(&control, 0x20_4000 + 100);
    assert!(BootImage::new(&good).is_ok());
    let with = |change: fn(&mut Checkpoint)| {
        let mut counters = good.counters;
        change(&mut counters);
        Facts { counters, ..good }
    };
    for bad in [
        with(|counters| counters.next_xid = 1 << 32 | 6999), // before the earlier checkpoint's
        with(|counters| counters.next_xid = 2),
        with(|counters| counters.oldest_xid = 8000),
        with(|counters| counters.next_multi = 8),
        with(|counters| counters.next_multi = 0),
        with(|counters| counters.oldest_multi = 10),
        with(|counters| counters.next_oid = Oid(0)),
        Facts { timeline: 0, ..good },
        Facts { last_record: good.end, ..good },
        Facts { last_record: Lsn::INVALID, ..good },
        Facts { end: Lsn(24), ..good },
        Facts { control: &control[..291], ..good },
    ] {
        assert!(BootImage::new(&bad).is_err(), "{bad:?}");
    }
}

#[test]
fn names_the_log_pages_that_a_start_reads() {
    let at = |next_xid, next_multi, next_multi_offset| {
        pages_needed(&Checkpoint { next_xid, next_multi, next_multi_offset, ..counters() })
    };
    assert_eq!(at(32_768 * 3, 2048, 0), []);
    let all = [(Slru::Clog, 3), (Slru::MultiXactOffsets, 1), (Slru::MultiXactMembers, 2)];
    assert_eq!(at(32_768 * 3 + 1, 2049, 1636 * 2 + 4), all);
}

#[test]
fn a_standby_is_consistent_where_its_pages_are() {
    let control = earlier(&counters());
    let image = BootImage::new(&facts(&control, 0x20_4000 + 100)).unwrap();
    let (checkpoint, end) = (Lsn(0x10_0028), Lsn(0x20_4064));
    let start = StandbyStart { checkpoint, end, timeline: 3 };
    let standby = standby_control(&image.control, &start).unwrap();
    let read = ControlFile::parse(&standby).unwrap();
    assert_eq!(read.state, crate::datadir::control::State::InArchiveRecovery);
    assert_eq!(read.checkpoint_lsn, checkpoint);
    assert_eq!((read.minimum_recovery_point, read.minimum_recovery_timeline), (end, 3));
    assert_eq!(read.parameters, parameters());
    assert_eq!(standby.len(), FILE_BYTES);
    assert!(standby_control(&standby[..291], &start).is_err());
}
