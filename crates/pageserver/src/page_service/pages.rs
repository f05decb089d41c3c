//! The page stream: requests in, replies out, until the client ends it (format in [`pg::wire::pagestream`]).

use pg::datadir::slru::SEGMENT_PAGES;
use pg::lsn::Lsn;
use pg::sqlstate::SqlState;
use pg::wire::backend;
use pg::wire::error::Report;
use pg::wire::frontend::kind;
use pg::wire::pagestream::{self, Answer, Question, Reply, Request};
use pg::wire::replication::command::Options;
use runtime::clock;

use super::session::{End, Session, violation};
use super::target::MAIN;
use crate::error::PageError;
use crate::limits::STREAM_REPLY_BYTES_MAX;
use crate::moment::transaction_logs::TransactionLogs;

enum Found {
    Exists(bool),
    Blocks(u32),
    Bytes(u64),
    Pages,
    LogSegment,
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
        loop {
            let message = self.messages.receive().await?;
            match message.kind {
                kind::COPY_DATA => {
                    let data = self.messages.body(&message).to_vec();
                    let request =
                        Request::read(&data).map_err(|error| violation(error.to_string()))?;
                    self.answer(&request).await;
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

    /// Appends the reply to one request.
    async fn answer(&mut self, request: &Request<'_>) {
        let mut pages = Vec::new();
        let found = self.find(request, &mut pages).await;
        let (message, detail);
        let (lsn, answer) = match found {
            Ok((lsn, Found::Exists(exists))) => (lsn, Answer::Exists(exists)),
            Ok((lsn, Found::Blocks(blocks))) => (lsn, Answer::Blocks(blocks)),
            Ok((lsn, Found::Bytes(bytes))) => (lsn, Answer::DatabaseBytes(bytes)),
            Ok((lsn, Found::Pages)) => (lsn, Answer::Pages(&pages)),
            Ok((lsn, Found::LogSegment)) => (lsn, Answer::LogSegment(&pages)),
            Err(error) => {
                self.service.follower.page_errors.update(|errors| errors + 1);
                let report = error.report();
                message = report.message;
                detail = report.detail.unwrap_or_default();
                let (sqlstate, lsn) = (report.sqlstate, request.lsn);
                let (message, detail) = (message.as_bytes(), detail.as_bytes());
                (lsn, Answer::Error { sqlstate, message, detail })
            }
        };
        let mut data = Vec::with_capacity(pages.len() + 32);
        Reply { id: request.id, lsn, answer }.write(&mut data);
        backend::write::copy_data(&mut self.out, &data);
    }

    async fn find(
        &self,
        request: &Request<'_>,
        pages: &mut Vec<u8>,
    ) -> Result<(Lsn, Found), PageError> {
        let branches = self.service.follower.branches().ok_or(PageError::NotReady)?;
        let gone = || PageError::NoBranch { branch: self.target.branch.clone() };
        let timeline = branches.get(&self.target.branch).ok_or_else(gone)?;
        let lsn = timeline.lsn_for(request.lsn, request.not_modified_since).await?;
        let found = match request.question {
            Question::Exists(relation) => Found::Exists(timeline.exists(relation, lsn)?),
            Question::Blocks(relation) => Found::Blocks(timeline.blocks(relation, lsn)?),
            Question::DatabaseBytes { tablespace, database } => {
                Found::Bytes(timeline.database_bytes(tablespace, database, lsn))
            }
            Question::Pages(relation, blocks) => {
                for block in blocks.iter() {
                    let begin = clock::precise();
                    pages.extend_from_slice(&timeline.page(relation, block, lsn).await?[..]);
                    if let Some(seconds) = &*self.service.follower.page_seconds.borrow() {
                        seconds.observe((clock::precise() - begin).as_secs_f64());
                    }
                }
                let served = &self.service.follower.pages_served;
                served.set(served.get() + blocks.len() as u64);
                Found::Pages
            }
            Question::LogSegment { log, segment } => {
                let first = segment.saturating_mul(SEGMENT_PAGES);
                let logs = TransactionLogs::as_of(&timeline, lsn).await?;
                pages.append(&mut logs.segment(log, first).await?);
                Found::LogSegment
            }
        };
        Ok((lsn, found))
    }
}
