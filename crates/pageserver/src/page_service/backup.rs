//! BASE_BACKUP: a data directory as of any moment, as Postgres 15 sends one (`basebackup.c`, `basebackup_copy.c`).
//!
//! It needs no recovery and has no `backup_label`: `pg_control` says that the cluster was shut down at the moment, and
//! the checkpoint it points to stands in the WAL there (see [`crate::moment`]). One that is to follow the branch is as from a
//! standby: `backup_label`, `standby.signal`, and its WAL streamed (see [`crate::moment::standby`]).

use std::rc::Rc;
use std::time::Duration;

use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::sqlstate::SqlState;
use pg::wire::backend::{self, Format};
use pg::wire::error::Report;
use pg::wire::replication::backup::BackupPart;
use pg::wire::replication::command::Options;
use pg::wire::replication::reply::{Position, Tablespace};
use runtime::clock::{self, Instant};

use super::session::{End, Session};
use crate::branches::Present;
use crate::limits::{BACKUP_MESSAGE_BYTES, BACKUPS_MAX, STREAM_REPLY_BYTES_MAX};
use crate::moment::Moment;
use crate::timeline::Timeline;

mod archive;
mod boot_image;
mod contents;
mod manifest;

use archive::{Failure, Wal};
use manifest::{Checksums, Manifest};

/// What the command asks for.
struct Request {
    progress: bool,
    /// The WAL is part of the archive.
    wal: bool,
    /// `None`: no manifest.
    manifest: Option<Checksums>,
    /// Kibibytes a second; 0 for no limit.
    rate_max: u64,
}

impl Request {
    fn of(options: &Options) -> Result<Request, Report> {
        let invalid = |message: String| Report::error(SqlState::SYNTAX_ERROR, message);
        let mut request = Request { progress: false, wal: false, manifest: None, rate_max: 0 };
        let mut checksums = None;
        for option in &options.0 {
            let name = option.name.as_str();
            let value = option.value.as_deref().unwrap_or("true");
            let flag = || {
                options.boolean(name).flatten().ok_or_else(|| {
                    invalid(format!("{name} requires a Boolean value, not \"{value}\""))
                })
            };
            match name {
                "progress" => request.progress = flag()?,
                "wal" => request.wal = flag()?,
                "manifest" if matches!(value, "no" | "off" | "false") => request.manifest = None,
                "manifest" if matches!(value, "yes" | "on" | "true" | "force-encode") => {
                    request.manifest = Some(Checksums::default());
                }
                "manifest_checksums" => {
                    let known = Checksums::named(value);
                    checksums = Some(known.ok_or_else(|| {
                        invalid(format!("unrecognized checksum algorithm: \"{value}\""))
                    })?);
                }
                "max_rate" => {
                    let rate = value.parse().ok().filter(|rate| (32..=1_048_576).contains(rate));
                    request.rate_max = rate.ok_or_else(|| {
                        invalid(format!("{value} is outside the valid range for parameter \"MAX_RATE\" (32 .. 1048576)"))
                    })?;
                }
                "target" if value == "client" => {}
                "compression" if value == "none" => {}
                "target" | "compression" | "compression_detail" | "target_detail" => {
                    let message = format!(
                        "the page service does not support the base backup option {} '{value}'",
                        name.to_ascii_uppercase()
                    );
                    let report = Report::error(SqlState::FEATURE_NOT_SUPPORTED, message);
                    return Err(report.with_hint("compress at the client"));
                }
                // Nothing of these changes what we send: pages are always checked, and links always sent.
                "label" | "checkpoint" | "wait" | "verify_checksums" | "tablespace_map" => {}
                other => {
                    return Err(invalid(format!("unrecognized base backup option: \"{other}\"")));
                }
            }
        }
        match (&mut request.manifest, checksums) {
            (Some(manifest), Some(checksums)) => *manifest = checksums,
            (None, Some(_)) => {
                let message = "manifest checksums require a backup manifest".to_owned();
                return Err(invalid(message));
            }
            _ => {}
        }
        Ok(request)
    }
}

impl Session<'_> {
    pub(super) async fn base_backup(
        &mut self,
        options: &Options,
    ) -> Result<Result<(), Report>, End> {
        let prepared = async {
            let request = Request::of(options)?;
            let moment = self.begin_backup(&request).await?;
            Ok((request, moment))
        };
        let (request, moment) = match prepared.await {
            Ok(prepared) => prepared,
            Err(report) => return Ok(Err(report)),
        };
        let began = clock::now();
        tracing::info!(lsn = %moment.lsn, user = %self.target.user, "base backup begins");
        match self.send_backup(&request, &moment).await {
            Ok(bytes) => {
                let seconds = began.elapsed().as_secs_f64();
                tracing::info!(lsn = %moment.lsn, bytes, seconds, "base backup is done");
                backend::write::command_complete(&mut self.out, "BASE_BACKUP");
                Ok(Ok(()))
            }
            // In the middle of a COPY: the error ends it, and the connection goes on.
            Err(Failure::Page(error)) => Ok(Err(error.report())),
            Err(Failure::Connection(error)) => Err(error.into()),
        }
    }

    /// The moment to be backed up: that of the connection, or the latest.
    async fn begin_backup(&mut self, request: &Request) -> Result<Rc<Moment>, Report> {
        let timeline = self.service.timeline(&self.target.branch)?;
        if self.target.lsn.is_none() {
            let present = self.service.catch_up(&timeline).await;
            if let Present::Away(why) = present.map_err(|error| error.report())? {
                Report::notice(why).write(&mut self.out);
            }
        }
        let wanted = self.target.lsn.unwrap_or(Lsn::MAX);
        let lsn = timeline.lsn_for(wanted, Lsn::INVALID).await.map_err(|error| error.report())?;
        self.forget_ended_backups();
        // The WAL for a backup of the latest moment is asked for on another connection, which knows only the
        // segment: so there is one such moment in each segment at a time.
        let is_latest = self.target.lsn.is_none() && !self.target.is_replica;
        let is_shared = is_latest && !request.wal;
        let shared = if is_shared { self.active_moment(lsn, &timeline) } else { None };
        let moment = match shared {
            Some(moment) => moment,
            None => {
                let moment = match self.target.is_replica {
                    true => Moment::to_follow(timeline, lsn).await,
                    false => Moment::of(timeline, lsn).await,
                };
                Rc::new(moment.map_err(|error| error.report())?)
            }
        };
        let backups = &self.service.backups;
        if backups.borrow().len() >= BACKUPS_MAX {
            let message = "too many base backups are under way";
            return Err(Report::error(SqlState::CONFIGURATION_LIMIT_EXCEEDED, message));
        }
        let key = if is_shared { self.backup_key() } else { String::new() };
        backups.borrow_mut().push((key, Rc::downgrade(&moment)));
        Ok(moment)
    }

    /// The moment whose WAL is asked for from `start` on: that of the connection, or of a base backup that the same
    /// program is taking.
    pub(super) async fn moment_of_backup(
        &self,
        timeline: &Rc<Timeline>,
        start: Lsn,
    ) -> Result<Option<Rc<Moment>>, Report> {
        self.forget_ended_backups();
        if self.target.is_replica {
            return Ok(None); // it takes what was received
        }
        let Some(lsn) = self.target.lsn else { return Ok(self.active_moment(start, timeline)) };
        let lsn = timeline.lsn_for(lsn, Lsn::INVALID).await.map_err(|error| error.report())?;
        let moment = Moment::of(Rc::clone(timeline), lsn).await;
        Ok(Some(Rc::new(moment.map_err(|error| error.report())?)))
    }

    fn active_moment(&self, lsn: Lsn, timeline: &Rc<Timeline>) -> Option<Rc<Moment>> {
        let segment = |lsn: Lsn| lsn.segment(timeline.manifest.wal_segment_bytes);
        let key = self.backup_key();
        let backups = self.service.backups.borrow();
        let mut active = backups.iter().filter(|backup| backup.0 == key);
        active.find_map(|(_, moment)| {
            let its_own = moment.upgrade().filter(|moment| moment.standby.is_none());
            // The branch of this name may be another one by now.
            let its_own = its_own.filter(|moment| Rc::ptr_eq(&moment.timeline, timeline));
            its_own.filter(|moment| segment(moment.image.checkpoint) == segment(lsn))
        })
    }

    fn backup_key(&self) -> String {
        format!("{}\n{}\n{}", self.target.branch, self.target.user, self.target.application_name)
    }

    fn forget_ended_backups(&self) {
        self.service.backups.borrow_mut().retain(|(_, moment)| moment.strong_count() > 0);
    }

    /// Everything up to, but without, the last CommandComplete. Answers the bytes of all archives.
    async fn send_backup(
        &mut self,
        request: &Request,
        moment: &Rc<Moment>,
    ) -> Result<u64, Failure> {
        let catalog_version = moment.base.control().map_err(Failure::Page)?.catalog_version;
        let contents = contents::Contents::of(moment, catalog_version);
        let (start, number) = moment.start();
        self.position(start, number);
        self.tablespaces(request, &contents, moment);
        backend::write::copy_out(&mut self.out, Format::Text, &[]);
        self.flush();
        let manifest = request.manifest.map(Manifest::new);
        let mut sink = Sink {
            session: self,
            manifest,
            buffer: Vec::new(),
            sent: 0,
            rate_max: request.rate_max,
            began: clock::now(),
        };
        for archive in &contents.archives {
            sink.part(BackupPart::Archive {
                file_name: archive.file_name.as_bytes(),
                tablespace: archive.location.as_bytes(),
            })
            .await?;
            let wal = if request.wal { Wal::Whole } else { Wal::None };
            archive::send(&mut sink, moment, &contents, archive, wal).await?;
        }
        if let Some(manifest) = sink.manifest.take() {
            sink.part(BackupPart::Manifest).await?;
            let text = manifest.finish(moment.postgres_timeline(), start, moment.wal_end());
            for piece in text.chunks(BACKUP_MESSAGE_BYTES) {
                sink.part(BackupPart::Data(piece)).await?;
            }
        }
        let sent = sink.sent;
        backend::write::copy_done(&mut self.out);
        self.position(moment.wal_end(), moment.postgres_timeline());
        Ok(sent)
    }

    fn position(&mut self, lsn: Lsn, timeline: u32) {
        let (lsn, timeline) = (lsn.to_string(), timeline.to_string());
        let row = [Some(lsn.as_bytes()), Some(timeline.as_bytes())];
        self.rows(&Position::FIELDS, &[&row], "SELECT");
    }

    fn tablespaces(&mut self, request: &Request, contents: &contents::Contents, moment: &Moment) {
        backend::write::row_description(&mut self.out, &Tablespace::FIELDS);
        for archive in &contents.archives {
            let wal =
                if request.wal { u64::from(moment.timeline.manifest.wal_segment_bytes) } else { 0 };
            let own = if archive.tablespace.is_none() { wal } else { 0 };
            let size = request.progress.then(|| ((archive.bytes + own) / 1024).to_string());
            let oid = archive.tablespace.map(|Oid(oid)| oid.to_string());
            let location = archive.tablespace.is_some().then_some(archive.location.as_bytes());
            let row =
                [oid.as_ref().map(String::as_bytes), location, size.as_ref().map(String::as_bytes)];
            backend::write::data_row(&mut self.out, &row);
        }
        backend::write::command_complete(&mut self.out, "SELECT");
    }
}

/// Where archives go: the client's connection, at its speed.
struct Sink<'s, 'm> {
    session: &'s mut Session<'m>,
    manifest: Option<Manifest>,
    buffer: Vec<u8>,
    /// Archive bytes so far.
    sent: u64,
    rate_max: u64,
    began: Instant,
}

impl Sink<'_, '_> {
    /// Bytes of the current archive.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.buffer.extend_from_slice(bytes);
        self.sent += bytes.len() as u64;
        if self.buffer.len() >= BACKUP_MESSAGE_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        if !self.buffer.is_empty() {
            let data = std::mem::take(&mut self.buffer);
            self.part(BackupPart::Data(&data)).await?;
            self.buffer = data;
            self.buffer.clear();
        }
        self.keep_to_rate().await;
        Ok(())
    }

    async fn part(&mut self, part: BackupPart<'_>) -> Result<(), Failure> {
        let mut data = Vec::new();
        part.write(&mut data);
        backend::write::copy_data(&mut self.session.out, &data);
        self.session.flush();
        let writable = self.session.messages.writable(STREAM_REPLY_BYTES_MAX).await;
        writable.map_err(Failure::Connection)
    }

    async fn keep_to_rate(&self) {
        if let Some(millis) = (self.sent * 1000 / 1024).checked_div(self.rate_max) {
            let due = Duration::from_millis(millis);
            clock::sleep(due.saturating_sub(self.began.elapsed())).await;
        }
    }
}
