//! The WAL as a stream: any bytes, also as pages with right headers, in pieces of any size.

use pg::lsn::Lsn;
use pg::page::PAGE_BYTES;
use pg::redo::effects::effects;
use pg::wal::reader::{StreamDecoder, identify_segment};
use pg::wal::segment::{LONG_HEADER, WalVersion};

use super::seeds::{Script, changes, records};

const SEGMENT: u32 = 1 << 20;
const START: Lsn = Lsn(7 << 20);

/// Takes one input.
pub fn run(input: &[u8]) {
    let mut script = Script(input);
    let (how, piece) = (script.u8(), script.u16().max(1));
    let mut bytes = if how & 1 == 0 { script.0.to_vec() } else { stream(&mut script) };
    if how & 2 != 0 {
        script.damage(&mut bytes);
    }
    let _ = identify_segment(&bytes, START);
    let mut decoder = match how & 4 {
        0 => StreamDecoder::resync(START, SEGMENT),
        _ => StreamDecoder::at_record(START + 40, SEGMENT).assume_version(WalVersion::V15),
    };
    for mut piece in bytes.chunks(piece) {
        loop {
            let before = piece.len();
            match decoder.next(&mut piece) {
                Ok(Some(raw)) => {
                    assert!(raw.verify().is_ok());
                    let Ok(record) = raw.decode() else { continue };
                    let _ = effects(&record);
                    let _ = record.summary().to_string();
                    let mut page = [0; PAGE_BYTES];
                    for image in record.blocks.iter().filter_map(|block| block.image) {
                        let _ = image.restore(&mut page);
                    }
                }
                Ok(None) => {
                    assert!(piece.is_empty(), "{before} bytes, {} left", piece.len());
                    break;
                }
                Err(error) => {
                    let _ = error.to_string();
                    return;
                }
            }
        }
    }
}

/// Some real records one after another, on pages with headers, checksums right.
fn stream(script: &mut Script<'_>) -> Vec<u8> {
    let mut payload = Vec::new();
    for _ in 0..script.u8() % 6 {
        let seeds = if script.u8() & 1 == 0 { records() } else { changes() };
        let mut record = seeds[script.u16() % seeds.len()].record.clone();
        script.damage(&mut record);
        if record.len() >= 24 {
            let length = u32::try_from(record.len()).unwrap();
            record[..4].copy_from_slice(&length.to_le_bytes());
            let crc = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
            record[20..24].copy_from_slice(&crc.to_le_bytes());
        }
        record.resize(record.len().next_multiple_of(8), 0);
        payload.extend_from_slice(&record);
    }
    let mut bytes = Vec::new();
    let mut rest = payload.as_slice();
    while !rest.is_empty() {
        let first = bytes.is_empty();
        bytes.extend_from_slice(&WalVersion::V15.magic().to_le_bytes());
        bytes.extend_from_slice(&if first { LONG_HEADER } else { 1 }.to_le_bytes());
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        let address = START.0 + u64::try_from(bytes.len()).unwrap() - 8;
        bytes.extend_from_slice(&address.to_le_bytes());
        bytes.extend_from_slice(&if first { 0 } else { u32::from(script.u8()) * 8 }.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        if first {
            bytes.extend_from_slice(&7_u64.to_le_bytes());
            bytes.extend_from_slice(&SEGMENT.to_le_bytes());
            bytes.extend_from_slice(&8192_u32.to_le_bytes());
        }
        let room = (8192 - bytes.len() % 8192).min(rest.len());
        bytes.extend_from_slice(&rest[..room]);
        rest = &rest[room..];
    }
    bytes
}
