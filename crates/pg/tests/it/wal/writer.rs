//! Writes WAL as a server would, to be decoded: records across pages and segments, torn and overwritten.

use pg::wal::segment::{CONTRECORD, LONG_HEADER, OVERWRITE_CONTRECORD};

pub(super) const SEGMENT: u32 = 1 << 20;
pub(super) const SYSTEM: u64 = 0x1234_5678_9ABC_DEF0;
const PAGE: u64 = 8192;

/// The stream and where its records are.
pub(super) struct Writer {
    pub(super) start: u64,
    pub(super) bytes: Vec<u8>,
    /// Start of each whole record, and its bytes.
    pub(super) records: Vec<(u64, Vec<u8>)>,
    previous: u64,
    flags: u16,
}

impl Writer {
    /// Begins at a segment.
    pub(super) fn new(start: u64) -> Writer {
        let records = Vec::new();
        Writer { start, bytes: Vec::new(), records, previous: start - 40, flags: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.start + u64::try_from(self.bytes.len()).unwrap()
    }

    /// A record with this main data.
    pub(super) fn record(&mut self, rmgr: u8, info: u8, main_data: &[u8]) {
        let record = self.build(rmgr, info, main_data);
        self.begin();
        let at = self.position();
        self.write(&record, usize::MAX);
        self.previous = at;
        self.records.push((at, record));
    }

    /// A record of which only the part on this page was written; the next page says so.
    pub(super) fn lost_record(&mut self, main_data: &[u8]) -> u64 {
        let record = self.build(10, 0, main_data);
        self.begin();
        let at = self.position();
        let left = usize::try_from(PAGE - at % PAGE).unwrap();
        assert!(record.len() > left);
        self.write(&record, left);
        self.flags = OVERWRITE_CONTRECORD;
        at
    }

    /// The rest of the segment, as after a switch.
    pub(super) fn pad_segment(&mut self) {
        while !self.position().is_multiple_of(u64::from(SEGMENT)) {
            self.bytes.push(0);
        }
    }

    fn build(&self, rmgr: u8, info: u8, main_data: &[u8]) -> Vec<u8> {
        let mut record = vec![0; 24];
        if main_data.len() < 256 {
            record.extend([255, u8::try_from(main_data.len()).unwrap()]);
        } else {
            record.push(254);
            record.extend(u32::try_from(main_data.len()).unwrap().to_le_bytes());
        }
        record.extend(main_data);
        let length = u32::try_from(record.len()).unwrap();
        record[..4].copy_from_slice(&length.to_le_bytes());
        record[4..8].copy_from_slice(&777_u32.to_le_bytes());
        record[8..16].copy_from_slice(&self.previous.to_le_bytes());
        record[16..18].copy_from_slice(&[info, rmgr]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&record[24..]), &record[..20]);
        record[20..24].copy_from_slice(&checksum.to_le_bytes());
        record
    }

    /// To where a record may begin.
    fn begin(&mut self) {
        while !self.position().is_multiple_of(8) {
            self.bytes.push(0);
        }
        self.page_header(0);
    }

    fn write(&mut self, record: &[u8], most: usize) {
        for (index, &byte) in record.iter().enumerate().take(most) {
            self.page_header(record.len() - index);
            self.bytes.push(byte);
        }
    }

    /// If a page begins here: its header, telling how much of a record is still to come.
    fn page_header(&mut self, rest: usize) {
        let position = self.position();
        if !position.is_multiple_of(PAGE) {
            return;
        }
        let long = position.is_multiple_of(u64::from(SEGMENT));
        let mut flags = std::mem::take(&mut self.flags);
        flags |= if rest > 0 { CONTRECORD } else { 0 } | if long { LONG_HEADER } else { 0 };
        self.bytes.extend(0xD110_u16.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(position.to_le_bytes());
        self.bytes.extend(u32::try_from(rest).unwrap().to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(SYSTEM.to_le_bytes());
            self.bytes.extend(SEGMENT.to_le_bytes());
            self.bytes.extend(8192_u32.to_le_bytes());
        }
    }
}
