//! One tar archive of a base backup: folders, files, and relations page by page as they are rebuilt.
//!
//! Rule: nothing is held in memory but the message being filled and one transaction log segment.

use pg::datadir::layout::{RelationFile, SEGMENT_BLOCKS, two_phase_file};
use pg::datadir::slru::Slru;
use pg::lsn::Lsn;
use pg::state::origins_file;
use pg::wal::segment::SegmentName;
use runtime::clock;
use tar::{EntryType, Header};

use super::Sink;
use super::contents::{Archive, Contents, Piece};
use super::manifest::Sum;
use crate::error::PageError;
use crate::limits::{BACKUP_MESSAGE_BYTES, BATCH_BLOCKS_MAX, PAGE_BYTES};
use crate::moment::Moment;
use crate::{lineage, promotion};

/// Tar counts in blocks of this size.
const TAR_BLOCK: usize = 512;
/// Folders that a server wants to find, whatever else there is.
const FOLDERS: [&str; 22] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_dynshmem",
    "pg_logical",
    "pg_logical/mappings",
    "pg_logical/snapshots",
    "pg_multixact",
    "pg_multixact/members",
    "pg_multixact/offsets",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat",
    "pg_stat_tmp",
    "pg_subtrans",
    "pg_tblspc",
    "pg_twophase",
    "pg_wal",
    "pg_wal/archive_status",
    "pg_xact",
];

/// How much WAL is in the archive of the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wal {
    None,
    /// The segments that a server starts from.
    Whole,
    /// The same, but the last one ends with its WAL: whoever takes it makes the file as long as a segment.
    Used,
}

/// Why an archive is not complete.
pub(super) enum Failure {
    /// Something of the cluster cannot be given.
    Page(PageError),
    Connection(std::io::Error),
}

impl From<PageError> for Failure {
    fn from(error: PageError) -> Failure {
        Failure::Page(error)
    }
}

/// Sends an archive's bytes.
pub(super) async fn send(
    sink: &mut Sink<'_, '_>,
    moment: &Moment,
    contents: &Contents,
    archive: &Archive,
    wal: Wal,
) -> Result<(), Failure> {
    let mut writer = Writer { sink, contents, archive, time: clock::wall_micros() / 1_000_000 };
    if archive.tablespace.is_none() {
        writer.data_directory(moment).await?;
    } else {
        writer.folder(&contents.version_directory).await?;
    }
    for database in &archive.databases {
        writer.database(moment, *database).await?;
    }
    for piece in &archive.forks {
        writer.fork(moment, piece).await?;
    }
    if archive.tablespace.is_none() {
        if let Some(standby) = &moment.standby {
            // Its WAL comes by streaming, from the redo pointer on.
            writer.history(moment).await?;
            writer.file("backup_label", standby.label.as_bytes()).await?;
            writer.file("standby.signal", b"").await?;
        } else if wal != Wal::None {
            writer.wal(moment, wal).await?;
        }
        // Last, so that half a backup cannot be started.
        writer.file("global/pg_control", moment.control()).await?;
    }
    writer.sink.write(&[0; 2 * TAR_BLOCK]).await?;
    writer.sink.flush().await
}

struct Writer<'a, 's, 'm> {
    sink: &'a mut Sink<'s, 'm>,
    contents: &'a Contents,
    archive: &'a Archive,
    /// Every file's time, seconds since the Unix epoch.
    time: i64,
}

impl Writer<'_, '_, '_> {
    /// What the data directory has besides relations.
    async fn data_directory(&mut self, moment: &Moment) -> Result<(), Failure> {
        for folder in FOLDERS {
            self.folder(folder).await?;
        }
        for folder in &moment.base.folders {
            let top = folder.split('/').next().unwrap_or_default();
            if !FOLDERS.contains(&top) {
                self.folder(folder).await?;
            }
        }
        for (oid, location) in &moment.state.tablespaces {
            self.link(&format!("pg_tblspc/{oid}"), location).await?;
        }
        for (path, _bytes) in &moment.base.others {
            let bytes = moment.base.read(path).await?;
            self.file(path, &bytes).await?;
        }
        for log in Slru::ALL {
            for first in moment.state.logs.segments(log) {
                let bytes = moment.state.logs.segment(log, first).await?;
                self.file(&log.path(first), &bytes).await?;
            }
        }
        if let Some(origins) = &moment.state.origins {
            let file = origins_file(origins);
            self.file("pg_logical/replorigin_checkpoint", &file).await?;
        }
        for (xid, bytes) in &moment.state.prepared {
            let version = moment.timeline.manifest.wal_version();
            let file = two_phase_file(version, *xid, moment.state.counters.next_xid);
            self.file(&file, bytes).await?;
        }
        Ok(())
    }

    /// A database's folder in this archive's tablespace, with its map and version if it is the database's own.
    async fn database(
        &mut self,
        moment: &Moment,
        database: (pg::oid::Oid, pg::oid::Oid),
    ) -> Result<(), Failure> {
        let folder = self.contents.database_folder(database);
        if folder != "global" {
            self.folder(&folder).await?;
        }
        let Some(map) = moment.state.maps.get(&database) else { return Ok(()) };
        self.file(&format!("{folder}/pg_filenode.map"), map).await?;
        if folder != "global" {
            let major = moment.timeline.manifest.server_version / 10_000;
            self.file(&format!("{folder}/PG_VERSION"), format!("{major}\n").as_bytes()).await?;
        }
        Ok(())
    }

    /// A fork's files, as many as its blocks need.
    async fn fork(&mut self, moment: &Moment, piece: &Piece) -> Result<(), Failure> {
        let mut first = 0;
        loop {
            let blocks = (piece.blocks - first).min(SEGMENT_BLOCKS);
            let file = RelationFile::of_block(piece.tag, first);
            let path = file.path(&self.contents.version_directory).to_string();
            self.relation(moment, piece, &path, first, blocks).await?;
            first += blocks;
            if first >= piece.blocks {
                return Ok(());
            }
        }
    }

    async fn relation(
        &mut self,
        moment: &Moment,
        piece: &Piece,
        path: &str,
        first: u32,
        blocks: u32,
    ) -> Result<(), Failure> {
        let bytes = u64::from(blocks) * PAGE_BYTES as u64;
        let mut sum = self.begin(path, bytes).await?;
        let all: Vec<u32> = (first..first + blocks).collect();
        for some in all.chunks(BATCH_BLOCKS_MAX.into()) {
            for page in moment.timeline.pages(piece.source, some, moment.lsn).await? {
                sum.update(&page[..]);
                self.sink.write(&page[..]).await?;
            }
        }
        self.end(path, bytes, sum);
        Ok(())
    }

    /// The segments that a server needs to start, which are not in the manifest.
    async fn wal(&mut self, moment: &Moment, wal: Wal) -> Result<(), Failure> {
        let manifest = &moment.timeline.manifest;
        let bytes = manifest.wal_segment_bytes;
        let mut segment =
            SegmentName::of(moment.postgres_timeline(), moment.image.checkpoint, bytes);
        while segment.start() < moment.wal_end() {
            let (start, mut end) = (segment.start(), segment.start() + u64::from(bytes));
            if wal == Wal::Used {
                let used = moment.wal_end().0.next_multiple_of(TAR_BLOCK as u64);
                end = end.min(Lsn(used));
            }
            let path = format!("pg_wal/{segment}");
            self.header(&path, EntryType::Regular, end.bytes_since(start), None).await?;
            let mut at = start;
            while at < end {
                let until = end.min(at + BACKUP_MESSAGE_BYTES as u64);
                let wal = moment.wal(at, until).await.map_err(|error| PageError::Io {
                    page: "the received WAL".to_owned(),
                    what: error.to_string(),
                })?;
                self.sink.write(&wal).await?;
                at = until;
            }
            if wal == Wal::Whole {
                let done = format!("pg_wal/archive_status/{segment}.done");
                self.file_without_manifest(&done).await?;
            }
            segment.number += 1;
        }
        self.history(moment).await
    }

    /// The history file of the timeline that the server goes on with: the WAL before the moment may be on another one.
    async fn history(&mut self, moment: &Moment) -> Result<(), Failure> {
        let id = moment.postgres_timeline();
        let Some(content) = promotion::read_history(&moment.timeline, id).await else {
            return Ok(());
        };
        let name = lineage::file_name(id);
        self.header(&format!("pg_wal/{name}"), EntryType::Regular, content.len() as u64, None)
            .await?;
        self.sink.write(&content).await?;
        let padding = content.len().next_multiple_of(TAR_BLOCK) - content.len();
        self.sink.write(&[0; TAR_BLOCK][..padding]).await?;
        self.file_without_manifest(&format!("pg_wal/archive_status/{name}.done")).await
    }

    async fn file_without_manifest(&mut self, path: &str) -> Result<(), Failure> {
        self.header(path, EntryType::Regular, 0, None).await
    }

    async fn file(&mut self, path: &str, bytes: &[u8]) -> Result<(), Failure> {
        let length = bytes.len() as u64;
        let mut sum = self.begin(path, length).await?;
        sum.update(bytes);
        self.sink.write(bytes).await?;
        let padding = bytes.len().next_multiple_of(TAR_BLOCK) - bytes.len();
        self.sink.write(&[0; TAR_BLOCK][..padding]).await?;
        self.end(path, length, sum);
        Ok(())
    }

    async fn begin(&mut self, path: &str, bytes: u64) -> Result<Sum, Failure> {
        self.header(path, EntryType::Regular, bytes, None).await?;
        let checksums = self.sink.manifest.as_ref().map(|manifest| manifest.checksums);
        Ok(checksums.map_or(Sum::None, super::Checksums::begin))
    }

    fn end(&mut self, path: &str, bytes: u64, sum: Sum) {
        if let Some(manifest) = &mut self.sink.manifest {
            manifest.add(path, bytes, self.time, sum);
        }
    }

    async fn folder(&mut self, path: &str) -> Result<(), Failure> {
        self.header(&format!("{path}/"), EntryType::Directory, 0, None).await
    }

    async fn link(&mut self, path: &str, target: &str) -> Result<(), Failure> {
        self.header(path, EntryType::Symlink, 0, Some(target)).await
    }

    /// `path` is relative to the data directory.
    async fn header(
        &mut self,
        path: &str,
        kind: EntryType,
        bytes: u64,
        target: Option<&str>,
    ) -> Result<(), Failure> {
        let name = self.contents.name_in(self.archive, path);
        let mut header = Header::new_ustar();
        let named = header.set_path(name).and_then(|()| match target {
            Some(target) => header.set_link_name(target),
            None => Ok(()),
        });
        named.map_err(|error| PageError::Io {
            page: format!("file \"{path}\""),
            what: error.to_string(),
        })?;
        header.set_entry_type(kind);
        header.set_mode(if kind == EntryType::Directory { 0o700 } else { 0o600 });
        header.set_size(bytes);
        header.set_mtime(u64::try_from(self.time).unwrap_or(0));
        header.set_cksum();
        self.sink.write(header.as_bytes()).await
    }
}
