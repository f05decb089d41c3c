//! All pages of a cluster, kept up to date from its WAL alone; every record judged where it can be.

use std::collections::{BTreeMap, BTreeSet};

use pg::datadir::layout::{RelationFile, SEGMENT_BLOCKS};
use pg::datadir::relation::{Fork, RelNode, RelTag};
use pg::datadir::slru::{self, Slru, XidStatus};
use pg::page::diff::diff;
use pg::page::mask::{MaskOptions, PageKind, compare};
use pg::page::{PAGE_BYTES, PageBytes, vm};
use pg::redo::effects::{Change, TransactionEnd, effects};
use pg::redo::visibility::implied_vm_clears;
use pg::redo::{Fault, Options, Outcome, redo};
use pg::wal::record::Record;

/// What became of the blocks of one kind of record.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) blocks: u32,
    /// Redone and equal to the image beside the record.
    pub(crate) matched: u32,
    pub(crate) mismatched: u32,
    /// Restored from an image or redone without one to compare with.
    pub(crate) unjudged: u32,
    pub(crate) unsupported: u32,
}

/// The pages and what has been learned.
pub(crate) struct Replica {
    pages: BTreeMap<(RelTag, u32), Box<PageBytes>>,
    slru: BTreeMap<(Slru, u32), Box<PageBytes>>,
    options: Options,
    pub(crate) tallies: BTreeMap<String, Tally>,
    /// Relations with records that we could not redo.
    tainted: BTreeSet<RelTag>,
    /// The first few mismatches and errors.
    pub(crate) complaints: Vec<String>,
}

impl Replica {
    /// Begins with a stopped cluster's files.
    pub(crate) fn load(files: &[(String, Vec<u8>)], options: Options) -> Replica {
        let mut replica = Replica {
            pages: BTreeMap::new(),
            slru: BTreeMap::new(),
            options,
            tallies: BTreeMap::new(),
            tainted: BTreeSet::new(),
            complaints: Vec::new(),
        };
        for (path, bytes) in files {
            for (number, page) in (0..).zip(bytes.as_chunks::<PAGE_BYTES>().0) {
                if let Some(file) = RelationFile::parse(path) {
                    let block = file.segment * SEGMENT_BLOCKS + number;
                    replica.pages.insert((file.tag, block), Box::new(*page));
                } else if let Some((slru, first)) = Slru::parse(path) {
                    replica.slru.insert((slru, first + number), Box::new(*page));
                }
            }
        }
        replica
    }

    /// The page as it is now.
    pub(crate) fn page(&self, tag: RelTag, block: u32) -> Option<&PageBytes> {
        self.pages.get(&(tag, block)).map(|page| &**page)
    }

    pub(crate) fn apply(&mut self, record: &Record<'_>) {
        for index in 0..record.blocks.len() {
            self.apply_block(record, index);
        }
        for clear in implied_vm_clears(record) {
            let key = (clear.node.fork(Fork::Vm), vm::map_block(clear.heap_block));
            if let Some(page) = self.pages.get_mut(&key) {
                vm::clear(page, clear.heap_block, clear.bits);
            }
        }
        for change in effects(record).unwrap() {
            self.apply_change(change);
        }
    }

    fn apply_block(&mut self, record: &Record<'_>, index: usize) {
        let block = &record.blocks[index];
        let kind = record.kind().to_string();
        let key = (block.tag, block.number);
        let page = self.pages.entry(key).or_insert_with(|| Box::new([0; PAGE_BYTES]));
        let mut expected = None;
        if let Some(image) = block.image.filter(|image| !image.apply) {
            let mut bytes = Box::new([0; PAGE_BYTES]);
            image.restore(&mut bytes).unwrap();
            expected = Some(bytes);
        }
        let tally = self.tallies.entry(kind).or_default();
        tally.blocks += 1;
        let mut complaint = None;
        match redo(record, block.id, page, self.options) {
            Ok(Outcome::Applied) => match &expected {
                None => tally.unjudged += 1,
                Some(image) => match differ(page, image, record, block.number) {
                    None => tally.matched += 1,
                    Some(what) => complaint = Some(what),
                },
            },
            Ok(Outcome::NotApplicable) => tally.unjudged += 1,
            Ok(Outcome::Skipped) => complaint = Some("skipped".to_owned()),
            Err(error) if error.fault == Fault::Unsupported => {
                tally.unsupported += 1;
                match expected.take() {
                    Some(image) => **page = *image,
                    None => {
                        self.tainted.insert(block.tag);
                    }
                }
            }
            Err(error) => complaint = Some(error.to_string()),
        }
        if let Some(what) = complaint {
            tally.mismatched += 1;
            if let Some(image) = expected {
                **page = *image;
            }
            if self.complaints.len() < 30 {
                let (kind, id, lsn) = (record.kind(), block.id, record.lsn);
                let (tag, number) = (block.tag, block.number);
                self.complaints.push(format!("{lsn} {kind} #{id} {tag} block {number}: {what}"));
            }
        }
    }

    fn apply_change(&mut self, change: Change<'_>) {
        match change {
            Change::RelationDropped(node) => self.pages.retain(|key, _| key.0.node() != node),
            Change::RelationTruncated { node, blocks, vm: shrink_map, .. } => {
                self.pages.retain(|key, _| key.0 != node.fork(Fork::Main) || key.1 < blocks);
                if shrink_map {
                    self.truncate_map(node, blocks);
                }
            }
            Change::DatabaseCreated { tablespace, database, source: Some((from, template)) } => {
                let copies: Vec<_> = self
                    .pages
                    .iter()
                    .filter(|(key, _)| key.0.spcnode == from && key.0.dbnode == template)
                    .map(|((tag, block), page)| {
                        let tag = RelTag { spcnode: tablespace, dbnode: database, ..*tag };
                        ((tag, *block), page.clone())
                    })
                    .collect();
                self.pages.extend(copies);
            }
            Change::DatabaseDropped { database, .. } => {
                self.pages.retain(|key, _| key.0.dbnode != database);
            }
            Change::TransactionEnded(end) => self.end_transaction(&end),
            Change::ClogPageZeroed(page) => self.zero(Slru::Clog, page),
            Change::MultiXactOffsetsPageZeroed(page) => self.zero(Slru::MultiXactOffsets, page),
            Change::MultiXactMembersPageZeroed(page) => self.zero(Slru::MultiXactMembers, page),
            Change::MultiXactCreated { multi, offset, members } => {
                let count = u32::try_from(members.len()).unwrap();
                for (multi, offset) in [(multi, offset), slru::next_multixact(multi, offset, count)]
                {
                    let page = slru::multixact_offset_page(multi);
                    let page = self.slru.get_mut(&(Slru::MultiXactOffsets, page)).unwrap();
                    slru::set_multixact_offset(page, multi, offset);
                }
                for (offset, (xid, status)) in (offset..).zip(members) {
                    let page = slru::multixact_member_page(offset);
                    let page = self.slru.get_mut(&(Slru::MultiXactMembers, page)).unwrap();
                    slru::set_multixact_member(page, offset, xid, status);
                }
            }
            _ => {}
        }
    }

    fn truncate_map(&mut self, node: RelNode, blocks: u32) {
        let tag = node.fork(Fork::Vm);
        let last = vm::map_block(blocks);
        let whole = blocks.is_multiple_of(vm::HEAP_BLOCKS_PER_PAGE);
        self.pages.retain(|key, _| key.0 != tag || key.1 < last || (key.1 == last && !whole));
        if let Some(page) = self.pages.get_mut(&(tag, last)) {
            vm::clear_from(page, blocks);
        }
    }

    fn zero(&mut self, slru: Slru, page: u32) {
        self.slru.insert((slru, page), Box::new([0; PAGE_BYTES]));
    }

    fn end_transaction(&mut self, end: &TransactionEnd<'_>) {
        let status = if end.committed { XidStatus::Committed } else { XidStatus::Aborted };
        for &xid in end.subxids.iter().chain([&end.xid]) {
            let page = self.slru.get_mut(&(Slru::Clog, slru::xid_page(xid))).unwrap();
            slru::set_xid_status(page, xid, status);
        }
    }

    /// Compares with the stopped cluster's files; answers the differences and how many pages were compared.
    pub(crate) fn compare(&self, files: &[(String, Vec<u8>)]) -> (Vec<String>, u32) {
        let there = Replica::load(files, self.options);
        let unlogged: BTreeSet<RelNode> = files
            .iter()
            .filter_map(|(path, _)| RelationFile::parse(path))
            .filter(|file| file.tag.fork == Fork::Init)
            .map(|file| file.tag.node())
            .collect();
        let mut differences = Vec::new();
        let mut compared = 0;
        for (key, theirs) in &there.pages {
            let (tag, block) = *key;
            if tag.fork == Fork::Fsm || (tag.fork == Fork::Main && unlogged.contains(&tag.node())) {
                continue;
            }
            if self.tainted.contains(&tag) {
                continue;
            }
            compared += 1;
            let ours = self.pages.get(key).map(|page| &**page);
            let kind = PageKind::of_page(theirs, tag.fork);
            if let Some(what) = compare(ours, theirs, kind, block, MaskOptions::FILES) {
                differences.push(format!("{tag} block {block}: {what}"));
            }
        }
        for (key, theirs) in &there.slru {
            if key.0 == Slru::CommitTimestamps {
                continue;
            }
            compared += 1;
            let what = self.slru.get(key).map_or(Some("missing".to_owned()), |ours| {
                diff(ours, theirs).map(|difference| difference.to_string())
            });
            differences.extend(what.map(|what| format!("{key:?}: {what}")));
        }
        (differences, compared)
    }
}

fn differ(ours: &PageBytes, image: &PageBytes, record: &Record<'_>, block: u32) -> Option<String> {
    let kind = PageKind::of_rmgr(record.rmgr());
    compare(Some(ours), image, kind, block, MaskOptions::POSTGRES).map(|found| found.to_string())
}
