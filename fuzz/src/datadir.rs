//! Files of a data directory: any bytes, their checksum put right.

use pg::datadir::backup_label::BackupLabel;
use pg::datadir::control::ControlFile;
use pg::datadir::layout::{RelationFile, two_phase_xid};
use pg::datadir::relmap::RelationMap;
use pg::datadir::slru::Slru;
use pg::oid::Oid;
use pg::redo::effects::prepared_header;
use pg::state::origins_of_file;
use pg::wal::segment::WalVersion;

/// Takes one input.
pub fn run(input: &[u8]) {
    let _ = prepared_header(input, WalVersion::V15);
    let _ = prepared_header(input, WalVersion::V14);
    for at in [288, 292] {
        let file = with_checksum(input, at);
        let _ = ControlFile::parse(&file);
    }
    for (at, length) in [(8 + 62 * 8, 512), (8 + 64 * 8, 524)] {
        let mut file = with_checksum(input, at);
        file.resize(length, 0);
        file[..4].copy_from_slice(&0x0059_2717_u32.to_le_bytes());
        let crc = crc32c::crc32c(&file[..at]);
        file[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        if let Ok(map) = RelationMap::parse(&file) {
            assert!(map.mappings.len() <= 64);
            let _ = map.file_of(Oid(1259));
        }
    }
    let _ = origins_of_file(input);
    let Ok(text) = str::from_utf8(input) else { return };
    let _ = BackupLabel::parse(text);
    let _ = two_phase_xid(text);
    if let Some((slru, page)) = Slru::parse(text) {
        assert_eq!(Slru::parse(&slru.path(page)), Some((slru, page)));
    }
    if let Some(file) = RelationFile::parse(text) {
        let again = file.path("PG_15_202209061").to_string();
        assert_eq!(RelationFile::parse(&again), Some(file));
    }
}

fn with_checksum(input: &[u8], at: usize) -> Vec<u8> {
    let mut file = input.to_vec();
    file.resize(at, 0);
    let crc = crc32c::crc32c(&file);
    file.extend_from_slice(&crc.to_le_bytes());
    file
}
