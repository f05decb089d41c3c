//! The page stream: requests in, replies out, until the client ends it (format in [`pg::wire::pagestream`]).

use std::rc::{Rc, Weak};

use pg::datadir::slru::SEGMENT_PAGES;
use pg::lsn::Lsn;
use pg::sqlstate::SqlState;
use pg::wire::backend;
use pg::wire::error::Report;
use pg::wire::frontend::kind;
use pg::wire::pagestream::{self, Answer, Question, Reply, Request};
use pg::wire::replication::command::Options;
use pg::wire::write::message;
use runtime::clock;

use super::session::{End, Session, violation};
use super::target::MAIN;
use crate::error::PageError;
use crate::limits::{PAGE_BYTES, STREAM_REPLY_BYTES_MAX};
use crate::moment::transaction_logs::TransactionLogs;
use crate::page_cache::Page;
use crate::timeline::Timeline;

enum Found {
    Exists(bool),
    Blocks(u32),
    Bytes(u64),
    Pages(Vec<Rc<Page>>),
    LogSegment(Vec<u8>),
}

impl Session<'_> {
    pub(super) fn begin_stream(&mut self, options: &Options) -> Result<(), Report> {
        let invalid =
            |message: String| Err(Report::error(SqlState::INVALID_PARAMETER_VALUE, message));
        for option in &options.0 {
            let value = option.value.as_deref().unwrap_or("");
            match option.name.as_str() {
                "version" if value == pagestream::VERSION => {}
                "version" => return invalid(format!("page stream version \"{value}\" is unknown")),
                "tenant" if value == MAIN => {}
                "timeline" if value == self.target.branch => {}
                "tenant" | "timeline" => {
                    return invalid(format!("{} \"{value}\" does not exist", option.name));
                }
                other => return invalid(format!("unrecognized PAGESTREAM option \"{other}\"")),
            }
        }
        self.service.timeline(&self.target.branch)?;
        backend::write::copy_both(&mut self.out);
        Ok(())
    }

    /// Answers requests until the client ends the stream.
    pub(super) async fn page_stream(&mut self) -> Result<(), End> {
        self.flush();
        // Another branch may be given the name of this one.
        let begun = self.service.timeline(&self.target.branch);
        let begun = begun.map_or_else(|_gone| Weak::new(), |timeline| Rc::downgrade(&timeline));
        loop {
            let message = self.messages.receive().await?;
            match message.kind {
                kind::COPY_DATA => {
                    let data = self.messages.body(&message).to_vec();
                    let request =
                        Request::read(&data).map_err(|error| violation(error.to_string()))?;
                    self.answer(&request, &begun).await;
                    self.flush();
                    self.messages.writable(STREAM_REPLY_BYTES_MAX).await?;
                }
                kind::COPY_DONE => {
                    backend::write::copy_done(&mut self.out);
                    return Ok(());
                }
                kind::TERMINATE => return Err(End::Closed),
                other => {
                    return Err(violation(format!(
                        "unexpected message type {other} in page stream"
                    )));
                }
            }
        }
    }

    /// Appends the reply to one request about the branch with which the stream began.
    async fn answer(&mut self, request: &Request<'_>, begun: &Weak<Timeline>) {
        let found = self.find(request, begun).await;
        let (segment, text, detail);
        let mut pages = Vec::new();
        let (lsn, answer) = match found {
            Ok((lsn, Found::Exists(exists))) => (lsn, Answer::Exists(exists)),
            Ok((lsn, Found::Blocks(blocks))) => (lsn, Answer::Blocks(blocks)),
            Ok((lsn, Found::Bytes(bytes))) => (lsn, Answer::DatabaseBytes(bytes)),
            Ok((lsn, Found::Pages(found))) => {
                pages = found;
                (lsn, Answer::Pages(&[]))
            }
            Ok((lsn, Found::LogSegment(found))) => {
                segment = found;
                (lsn, Answer::LogSegment(&segment))
            }
            Err(error) => {
                self.service.follower.page_errors.update(|errors| errors + 1);
                let report = error.report();
                text = report.message;
                detail = report.detail.unwrap_or_default();
                let (sqlstate, lsn) = (report.sqlstate, request.lsn);
                let (message, detail) = (text.as_bytes(), detail.as_bytes());
                (lsn, Answer::Error { sqlstate, message, detail })
            }
        };
        self.out.reserve(pages.len() * PAGE_BYTES + 32);
        message(&mut self.out, backend::kind::COPY_DATA, |out| {
            Reply { id: request.id, lsn, answer }.write(out);
            // The largest answer by far is not put together before.
            pages.iter().for_each(|page| out.extend_from_slice(&page[..]));
        });
    }

    async fn find(
        &self,
        request: &Request<'_>,
        begun: &Weak<Timeline>,
    ) -> Result<(Lsn, Found), PageError> {
        let branches = self.service.follower.branches().ok_or(PageError::NotReady)?;
        let gone = || PageError::NoBranch { branch: self.target.branch.clone() };
        let timeline = branches.get(&self.target.branch);
        let is_same = |found: &Rc<Timeline>| std::ptr::eq(Rc::as_ptr(found), begun.as_ptr());
        let timeline = timeline.filter(is_same).ok_or_else(gone)?;
        let lsn = timeline.lsn_for(request.lsn, request.not_modified_since).await?;
        let found = match request.question {
            Question::Exists(relation) => Found::Exists(timeline.exists(relation, lsn)?),
            Question::Blocks(relation) => Found::Blocks(timeline.blocks(relation, lsn)?),
            Question::DatabaseBytes { tablespace, database } => {
                Found::Bytes(timeline.database_bytes(tablespace, database, lsn))
            }
            Question::Pages(relation, blocks) => {
                let blocks: Vec<u32> = blocks.iter().collect();
                let begin = clock::precise();
                let pages = timeline.pages(relation, &blocks, lsn).await?;
                if let Some(seconds) = &*self.service.follower.page_seconds.borrow() {
                    // Each page with its share of the batch.
                    let share = (clock::precise() - begin).as_secs_f64() / blocks.len() as f64;
                    blocks.iter().for_each(|_page| seconds.observe(share));
                }
                let served = &self.service.follower.pages_served;
                served.set(served.get() + blocks.len() as u64);
                Found::Pages(pages)
            }
            Question::LogSegment { log, segment } => {
                let first = segment.saturating_mul(SEGMENT_PAGES);
                let logs = TransactionLogs::as_of(&timeline, lsn).await?;
                Found::LogSegment(logs.segment(log, first).await?)
            }
        };
        Ok((lsn, found))
    }
}
