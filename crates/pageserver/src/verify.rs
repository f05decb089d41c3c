//! Compares the files of a cleanly stopped cluster with the page versions as of its last checkpoint, block by block.
//!
//! What is passed over, and why, is listed in the crate's README; all of it is counted in the [`Report`].

mod page;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use pg::datadir::control::{ControlFile, State};
use pg::datadir::layout::{RelationFile, SEGMENT_BLOCKS};
use pg::datadir::relation::{Fork, RelNode, RelTag};
use pg::datadir::slru::Slru;
use pg::lsn::Lsn;
use pg::sqlstate::SqlState;
use runtime::fs::{self, File, OpenOptions};
use serde::{Deserialize, Serialize};

use crate::base_files::relation_files;
use crate::client::{Client, ClientError, PageStream};
use crate::error::Error;
use crate::limits::{BATCH_BLOCKS_MAX, DIFFERENCES_KEPT_MAX, PAGE_BYTES};
use crate::page_cache::Page;

/// What was compared and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub system_identifier: String,
    /// The comparison is as of here: the cluster's last checkpoint.
    pub lsn: String,
    /// Relation forks and blocks compared.
    pub forks: u64,
    pub blocks: u64,
    /// Pages of `pg_xact` compared.
    pub transaction_pages: u64,
    /// How many differences there are; the first ones follow.
    pub differences_found: u64,
    pub differences: Vec<Difference>,
    /// Blocks that the page server refuses because it cannot redo a record; the first reasons follow.
    pub unsupported_blocks: u64,
    pub unsupported: Vec<Difference>,
    /// Blocks at the ends of files that Postgres added without WAL and never used.
    pub unlogged_extension_blocks: u64,
    /// Sequences whose WAL is ahead of them, as `log_cnt` says.
    pub sequences_ahead: u64,
    /// Visibility-map pages with bits that Postgres left out of the WAL.
    pub visibility_maps_behind: u64,
    pub free_space_maps_skipped: u64,
    pub unlogged_forks_skipped: u64,
    pub temporary_files_skipped: u64,
}

/// One block, or one relation, that is not the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// `1663/5/16384`, other forks with their name; or a file of `pg_xact`.
    pub relation: String,
    /// `None` for the relation as a whole.
    pub block: Option<u32>,
    pub what: String,
}

/// How far the comparison has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub blocks_done: u64,
    pub blocks_total: u64,
}

impl Report {
    /// Whether everything that could be compared is the same.
    pub fn is_identical(&self) -> bool {
        self.differences_found == 0
    }

    fn differs(&mut self, tag: RelTag, block: Option<u32>, what: impl Into<String>) {
        self.differs_in(tag.to_string(), block, what.into());
    }

    fn differs_in(&mut self, relation: String, block: Option<u32>, what: String) {
        self.differences_found += 1;
        keep(&mut self.differences, relation, block, what);
    }
}

fn keep(list: &mut Vec<Difference>, relation: String, block: Option<u32>, what: String) {
    if list.len() < DIFFERENCES_KEPT_MAX {
        list.push(Difference { relation, block, what });
    }
}

/// Why the comparison could not be made.
#[derive(Debug)]
pub enum VerifyError {
    File(Error),
    Client(ClientError),
    /// The cluster is not cleanly stopped, or another one than the page server follows.
    Cluster(String),
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerifyError::File(error) => fmt::Display::fmt(error, f),
            VerifyError::Client(error) => fmt::Display::fmt(error, f),
            VerifyError::Cluster(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for VerifyError {}

impl From<Error> for VerifyError {
    fn from(error: Error) -> VerifyError {
        VerifyError::File(error)
    }
}

impl From<ClientError> for VerifyError {
    fn from(error: ClientError) -> VerifyError {
        VerifyError::Client(error)
    }
}

/// Compares the stopped cluster in `data_directory` with what `client`'s page server has.
pub async fn verify(
    data_directory: &Path,
    mut client: Client,
    progress: impl Fn(Progress),
) -> Result<Report, VerifyError> {
    let control = read_control(data_directory).await?;
    let system = client.system().await?;
    if control.state != State::ShutDown {
        let message =
            format!("the cluster was not cleanly stopped: its state is {:?}", control.state);
        return Err(VerifyError::Cluster(message));
    }
    if control.system_identifier != system.identifier {
        let (own, theirs) = (system.identifier, control.system_identifier);
        let message = format!("the page server follows system {own}, but the cluster is {theirs}");
        return Err(VerifyError::Cluster(message));
    }
    // One byte into the checkpoint's record: not answered before that record has arrived.
    let lsn = control.checkpoint_lsn + 1;
    let mut report = Report {
        system_identifier: system.identifier.to_string(),
        lsn: control.checkpoint_lsn.to_string(),
        ..Report::default()
    };
    let cluster = Cluster::read(data_directory, &mut report).await?;
    let ours: BTreeMap<RelTag, u32> = client.relations(lsn).await?.into_iter().collect();
    transactions(data_directory, &mut client, lsn, &mut report).await?;
    let pages = client.into_stream().await?;
    let blocks_total = cluster.forks.values().map(|fork| u64::from(fork.blocks)).sum();
    let progress_now = Progress { blocks_done: 0, blocks_total };
    let mut comparison =
        Comparison { cluster: &cluster, pages, lsn, report, progress: progress_now };
    let tags: BTreeSet<RelTag> = cluster.forks.keys().chain(ours.keys()).copied().collect();
    for tag in tags {
        progress(comparison.progress);
        if cluster.is_unlogged(tag) {
            comparison.report.unlogged_forks_skipped += 1;
            continue;
        }
        let theirs = cluster.forks.get(&tag).map(|fork| fork.blocks);
        comparison.fork(tag, theirs, ours.get(&tag).copied(), &progress).await?;
    }
    progress(comparison.progress);
    Ok(comparison.report)
}

/// Compares the transaction status of all pages that the cluster still has. They bear no LSN and no
/// hints: every bit counts.
async fn transactions(
    data_directory: &Path,
    client: &mut Client,
    lsn: Lsn,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let folder = data_directory.join(Slru::Clog.directory());
    let failed = |source| Error::file("read directory", &folder, source);
    for entry in fs::read_dir(&folder).await.map_err(failed)? {
        let name = format!("{}/{}", Slru::Clog.directory(), entry.name.to_string_lossy());
        let Some((_, first)) = Slru::parse(&name) else { continue };
        let path = folder.join(&entry.name);
        let read = fs::read(&path).await;
        let bytes = read.map_err(|source| Error::file("read", &path, source))?;
        for (page, theirs) in (first..).zip(split(&bytes)) {
            let ours = client.transactions(page, lsn).await?;
            report.transaction_pages += 1;
            if ours.as_deref().unwrap_or(&[0; PAGE_BYTES]) != theirs {
                report.differs_in(
                    name.clone(),
                    Some(page),
                    "transaction status differs".to_owned(),
                );
            }
        }
    }
    Ok(())
}

async fn read_control(data_directory: &Path) -> Result<ControlFile, VerifyError> {
    let path = data_directory.join("global/pg_control");
    let bytes = fs::read(&path).await.map_err(|source| Error::file("read", &path, source))?;
    let parsed = ControlFile::parse(&bytes);
    parsed.map_err(|error| VerifyError::Cluster(format!("\"{}\": {error}", path.display())))
}

/// The relation files of the stopped cluster.
struct Cluster {
    directory: PathBuf,
    forks: BTreeMap<RelTag, ClusterFork>,
    unlogged: BTreeSet<RelNode>,
}

#[derive(Default)]
struct ClusterFork {
    blocks: u32,
    /// By number of the 1 GiB file.
    paths: BTreeMap<u32, PathBuf>,
}

impl Cluster {
    async fn read(directory: &Path, report: &mut Report) -> Result<Cluster, Error> {
        let mut forks: BTreeMap<RelTag, ClusterFork> = BTreeMap::new();
        let mut unlogged = BTreeSet::new();
        for (path, bytes) in relation_files(directory).await? {
            let Some(file) = path.to_str().and_then(RelationFile::parse) else {
                report.temporary_files_skipped += u64::from(is_temporary(&path));
                continue;
            };
            if file.tag.fork == Fork::Fsm {
                report.free_space_maps_skipped += u64::from(file.segment == 0);
                continue;
            }
            if file.tag.fork == Fork::Init {
                unlogged.insert(file.tag.node());
            }
            let blocks = u32::try_from(bytes / PAGE_BYTES as u64).unwrap_or(SEGMENT_BLOCKS);
            let fork = forks.entry(file.tag).or_default();
            fork.blocks = fork.blocks.max(file.segment.saturating_mul(SEGMENT_BLOCKS) + blocks);
            fork.paths.insert(file.segment, path);
        }
        Ok(Cluster { directory: directory.to_owned(), forks, unlogged })
    }

    /// A relation with an init fork is unlogged: only that fork is in the WAL.
    fn is_unlogged(&self, tag: RelTag) -> bool {
        tag.fork != Fork::Init && self.unlogged.contains(&tag.node())
    }

    /// Blocks from `first` on, `count` of them, which are in one file.
    async fn read_blocks(&self, tag: RelTag, first: u32, count: u32) -> Result<Vec<u8>, Error> {
        let fork = self.forks.get(&tag);
        let path = fork.and_then(|fork| fork.paths.get(&(first / SEGMENT_BLOCKS)));
        let Some(path) = path.map(|path| self.directory.join(path)) else {
            return Err(Error::Damaged(format!("a file of relation {tag} is missing")));
        };
        let failed = |source| Error::file("read", &path, source);
        let file = File::open(&path, OpenOptions::default()).await.map_err(failed)?;
        let offset = u64::from(first % SEGMENT_BLOCKS) * PAGE_BYTES as u64;
        let (read, mut buffer) = file.read_at(vec![0; count as usize * PAGE_BYTES], offset).await;
        let read = read.map_err(failed)?;
        if read != buffer.len() {
            return Err(Error::Damaged(format!("\"{}\" became shorter", path.display())));
        }
        buffer.truncate(read);
        Ok(buffer)
    }
}

/// `t3_16384`, and what is below `pgsql_tmp`.
fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let backend = name.strip_prefix('t').and_then(|rest| rest.split_once('_'));
    name.starts_with("pgsql_tmp")
        || backend.is_some_and(|(number, _)| number.parse::<u32>().is_ok())
}

/// The comparison under way.
struct Comparison<'c> {
    cluster: &'c Cluster,
    pages: PageStream,
    lsn: Lsn,
    report: Report,
    progress: Progress,
}

impl Comparison<'_> {
    /// Compares one fork; the sizes are in blocks, `None` where it does not exist.
    async fn fork(
        &mut self,
        tag: RelTag,
        theirs: Option<u32>,
        ours: Option<u32>,
        progress: &impl Fn(Progress),
    ) -> Result<(), VerifyError> {
        // A visibility map comes into being without WAL: only its blocks can tell.
        match (theirs, ours) {
            (None, Some(blocks)) if tag.fork != Fork::Vm => {
                let what =
                    format!("the cluster has no such relation, the page server {blocks} blocks");
                self.report.differs(tag, None, what);
                return Ok(());
            }
            (Some(blocks), None) if tag.fork != Fork::Vm => {
                let what =
                    format!("the page server has no such relation, the cluster {blocks} blocks");
                self.report.differs(tag, None, what);
                return Ok(());
            }
            _ => self.report.forks += 1,
        }
        let (theirs, ours) = (theirs.unwrap_or(0), ours.unwrap_or(0));
        let common = theirs.min(ours);
        let mut first = 0;
        while first < theirs.max(ours) {
            let end = if first < common { common } else { theirs.max(ours) };
            let in_file = SEGMENT_BLOCKS - first % SEGMENT_BLOCKS;
            let count = (end - first).min(in_file).min(u32::from(BATCH_BLOCKS_MAX));
            if first < common {
                self.batch(tag, first, count).await?;
            } else if first < theirs {
                self.only_theirs(tag, first, count).await?;
            } else {
                self.only_ours(tag, first, count).await?;
            }
            first += count;
            if first <= theirs {
                self.progress.blocks_done += u64::from(count);
                progress(self.progress);
            }
        }
        Ok(())
    }

    async fn batch(&mut self, tag: RelTag, first: u32, count: u32) -> Result<(), VerifyError> {
        let theirs = self.cluster.read_blocks(tag, first, count).await?;
        let blocks: Vec<u32> = (first..first + count).collect();
        match self.pages.pages(tag, &blocks, self.lsn).await {
            Ok(ours) => {
                let pairs = split(&theirs).zip(split(&ours));
                for (block, (theirs, ours)) in blocks.iter().zip(pairs) {
                    self.compare(tag, *block, theirs, ours);
                }
            }
            // At least one of them cannot be given: ask for each alone.
            Err(ClientError::Refused { .. }) => {
                for (block, theirs) in blocks.iter().zip(split(&theirs)) {
                    match self.pages.pages(tag, &[*block], self.lsn).await {
                        Ok(ours) => {
                            split(&ours).for_each(|ours| self.compare(tag, *block, theirs, ours));
                        }
                        Err(error) => self.refused(tag, *block, error)?,
                    }
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn refused(&mut self, tag: RelTag, block: u32, error: ClientError) -> Result<(), VerifyError> {
        match error {
            ClientError::Refused { sqlstate: SqlState::FEATURE_NOT_SUPPORTED, .. } => {
                self.report.unsupported_blocks += 1;
                let unsupported = &mut self.report.unsupported;
                keep(unsupported, tag.to_string(), Some(block), error.to_string());
                Ok(())
            }
            ClientError::Refused { .. } => {
                self.report.differs(tag, Some(block), error.to_string());
                Ok(())
            }
            ClientError::Connection(_) => Err(error.into()),
        }
    }

    fn compare(&mut self, tag: RelTag, block: u32, theirs: &Page, ours: &Page) {
        self.report.blocks += 1;
        match page::compare(tag, block, theirs, ours) {
            page::Verdict::Same => {}
            page::Verdict::SequenceAhead => self.report.sequences_ahead += 1,
            page::Verdict::MapBehind => self.report.visibility_maps_behind += 1,
            page::Verdict::Different(what) => self.report.differs(tag, Some(block), what),
        }
    }

    /// Blocks beyond the size that the page server knows: Postgres extends files without WAL.
    async fn only_theirs(
        &mut self,
        tag: RelTag,
        first: u32,
        count: u32,
    ) -> Result<(), VerifyError> {
        let theirs = self.cluster.read_blocks(tag, first, count).await?;
        for (block, page) in (first..).zip(split(&theirs)) {
            if page::is_unused(tag, page) {
                self.report.unlogged_extension_blocks += 1;
            } else {
                self.report.differs(tag, Some(block), "the page server has no such block");
            }
        }
        Ok(())
    }

    async fn only_ours(&mut self, tag: RelTag, first: u32, count: u32) -> Result<(), VerifyError> {
        for block in first..first + count {
            match self.pages.pages(tag, &[block], self.lsn).await {
                Ok(ours) if tag.fork == Fork::Vm => {
                    let unused = split(&ours).all(|page| page::is_unused(tag, page));
                    if unused {
                        self.report.unlogged_extension_blocks += 1;
                    } else {
                        self.report.differs(tag, Some(block), "the cluster has no such block");
                    }
                }
                Ok(_) => self.report.differs(tag, Some(block), "the cluster has no such block"),
                Err(error) => self.refused(tag, block, error)?,
            }
        }
        Ok(())
    }
}

fn split(pages: &[u8]) -> impl Iterator<Item = &Page> {
    pages.as_chunks::<PAGE_BYTES>().0.iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_temporary_files_by_name() {
        for (path, temporary) in [
            ("base/5/t3_16384", true),
            ("base/5/t3_16384_fsm", true),
            ("base/pgsql_tmp/pgsql_tmp77.0", true),
            ("base/5/16384", false),
            ("base/5/PG_VERSION", false),
            ("base/5/two_parts", false),
        ] {
            assert_eq!(is_temporary(Path::new(path)), temporary, "{path}");
        }
    }
}
