//! `backup_label`: where recovery of a base backup begins (`do_pg_backup_start`).

use std::fmt;

use crate::lsn::Lsn;
use crate::wal::segment::SegmentName;

/// The fields that matter for following the WAL from a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// The redo pointer: replay from here.
    pub start: Lsn,
    pub checkpoint: Lsn,
    pub timeline: u32,
    pub from_standby: bool,
    pub label: String,
}

/// The line that is missing or not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupLabelError(pub &'static str);

impl BackupLabel {
    pub fn parse(text: &str) -> Result<BackupLabel, BackupLabelError> {
        let field = |name: &'static str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.ok_or(BackupLabelError(name))
        };
        let lsn = |name: &'static str| -> Result<Lsn, BackupLabelError> {
            let first = field(name)?.split(' ').next().unwrap_or_default();
            first.parse().map_err(|_not_an_lsn| BackupLabelError(name))
        };
        let timeline = field("START TIMELINE")?;
        Ok(BackupLabel {
            start: lsn("START WAL LOCATION")?,
            checkpoint: lsn("CHECKPOINT LOCATION")?,
            timeline: timeline.parse().map_err(|_no_number| BackupLabelError("START TIMELINE"))?,
            from_standby: field("BACKUP FROM")? == "standby",
            label: field("LABEL")?.to_owned(),
        })
    }
}

impl BackupLabel {
    /// The file, for a server whose WAL segments have so many bytes. `time` is shown to people only.
    pub fn to_text(&self, segment_bytes: u32, time: &str) -> String {
        let segment = SegmentName::of(self.timeline, self.start, segment_bytes);
        let Self { start, checkpoint, timeline, from_standby, label } = self;
        let from = if *from_standby { "standby" } else { "primary" };
        format!(
            "START WAL LOCATION: {start} (file {segment})\nCHECKPOINT LOCATION: {checkpoint}\n\
             BACKUP METHOD: streamed\nBACKUP FROM: {from}\nSTART TIME: {time}\nLABEL: {label}\n\
             START TIMELINE: {timeline}\n"
        )
    }
}

impl fmt::Display for BackupLabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid data in file \"backup_label\": line \"{}\"", self.0)
    }
}

impl std::error::Error for BackupLabelError {}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-21 03:00:00 UTC\nLABEL: pg_basebackup base backup\nSTART TIMELINE: 1\n";

    #[test]
    fn reads_the_place_where_replay_begins() {
        let label = BackupLabel::parse(TEXT).unwrap();
        assert_eq!((label.start, label.checkpoint), (Lsn(0x0200_0028), Lsn(0x0200_0060)));
        assert_eq!((label.timeline, label.from_standby), (1, false));
        assert_eq!(label.label, "pg_basebackup base backup");
    }

    #[test]
    fn what_is_written_is_what_a_server_writes() {
        let label = BackupLabel::parse(TEXT).unwrap();
        assert_eq!(label.to_text(16 << 20, "2026-11-21 03:00:00 UTC"), TEXT);
    }

    #[test]
    fn names_the_line_that_is_missing() {
        let cut = TEXT.replace("START TIMELINE", "START LIMETINE");
        assert_eq!(BackupLabel::parse(&cut), Err(BackupLabelError("START TIMELINE")));
    }
}
