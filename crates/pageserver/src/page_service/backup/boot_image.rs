//! BOOT_IMAGE: what a server needs to start at the connection's moment, without the blocks of relations. Those it
//! reads one by one, as of the LSN that is told here.
//!
//! The answer: a row of facts; the archives of BASE_BACKUP, with WAL and without relations; the relations and their
//! sizes, as RELATIONS lists them.

use std::rc::Rc;

use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::wire::backend::{self, Field, Format};
use pg::wire::error::Report;
use pg::wire::replication::backup::BackupPart;
use runtime::clock;

use super::archive::{self, Failure, Wal};
use super::contents::Contents;
use super::{Session, Sink};
use crate::moment::Moment;
use crate::page_service::session::End;

impl Session<'_> {
    pub(in crate::page_service) async fn boot_image(&mut self) -> Result<Result<(), Report>, End> {
        let moment = match self.moment_to_boot().await {
            Ok(moment) => moment,
            Err(report) => return Ok(Err(report)),
        };
        match self.send_boot_image(&moment).await {
            Ok(()) => Ok(Ok(())),
            Err(Failure::Page(error)) => Ok(Err(error.report())),
            Err(Failure::Connection(error)) => Err(error.into()),
        }
    }

    async fn moment_to_boot(&self) -> Result<Rc<Moment>, Report> {
        let timeline = self.service.timeline(&self.target.branch)?;
        if self.target.lsn.is_none()
            && let Err(error) = self.service.catch_up(&timeline).await
        {
            // A compute that is to take over does not wait for the one before it.
            tracing::warn!(branch = timeline.name, %error, "a server starts where the WAL here ends");
        }
        let wanted = self.target.lsn.unwrap_or(Lsn::MAX);
        let found = async {
            let lsn = timeline.lsn_for(wanted, Lsn::INVALID).await?;
            match self.target.is_replica {
                true => Moment::to_follow(timeline, lsn).await,
                false => Moment::of(timeline, lsn).await,
            }
        };
        found.await.map(Rc::new).map_err(|error| error.report())
    }

    async fn send_boot_image(&mut self, moment: &Rc<Moment>) -> Result<(), Failure> {
        let catalog_version = moment.base.control().map_err(Failure::Page)?.catalog_version;
        let mut contents = Contents::of(moment, catalog_version);
        for archive in &mut contents.archives {
            archive.forks.clear();
        }
        self.facts(moment, &contents);
        backend::write::copy_out(&mut self.out, Format::Text, &[]);
        self.flush();
        let mut sink = Sink {
            session: self,
            manifest: None,
            buffer: Vec::new(),
            sent: 0,
            rate_max: 0,
            began: clock::now(),
        };
        for archive in &contents.archives {
            sink.part(BackupPart::Archive {
                file_name: archive.file_name.as_bytes(),
                tablespace: archive.location.as_bytes(),
            })
            .await?;
            archive::send(&mut sink, moment, &contents, archive, Wal::Used).await?;
        }
        backend::write::copy_done(&mut self.out);
        self.list_relations(&moment.timeline, moment.lsn);
        Ok(())
    }

    fn facts(&mut self, moment: &Moment, contents: &Contents) {
        let manifest = &moment.timeline.manifest;
        let fields = [
            Field::text(b"lsn", Oid::TEXT, -1),
            Field::text(b"checkpoint", Oid::TEXT, -1),
            Field::text(b"timeline", Oid::INT8, 8),
            Field::text(b"wal_segment_bytes", Oid::INT8, 8),
            Field::text(b"version_directory", Oid::TEXT, -1),
        ];
        let values = [
            moment.lsn.to_string(),
            moment.start().0.to_string(),
            manifest.timeline.to_string(),
            manifest.wal_segment_bytes.to_string(),
            contents.version_directory.clone(),
        ];
        let row = values.each_ref().map(|value| Some(value.as_bytes()));
        self.rows(&fields, &[&row], "BOOT_IMAGE");
    }
}
