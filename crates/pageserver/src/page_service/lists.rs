//! Answers with rows: who the server is, its settings, its slots, and commands of our own (`RELATIONS [lsn]`,
//! which lists every relation fork as of an LSN, `TRANSACTIONS page [lsn]`, which gives a page of `pg_xact`, and
//! `BOOT_IMAGE`, which is answered in `backup/boot_image.rs`).

use pg::lsn::Lsn;
use pg::oid::Oid;
use pg::sqlstate::SqlState;
use pg::version::ServerVersion;
use pg::wire::backend::{self, Field};
use pg::wire::error::Report;
use pg::wire::replication::command::CreateSlot;
use pg::wire::replication::reply::{CreatedSlot, IdentifySystem, ReadSlot, TimelineHistory};

use super::session::Session;
use crate::limits::PAGE_BYTES;
use crate::timeline::Timeline;
use crate::{lineage, promotion};

/// Commands of our own, besides those of the replication grammar.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Own {
    Relations {
        lsn: Lsn,
    },
    Transactions {
        page: u32,
        lsn: Lsn,
    },
    /// Of the connection's target: see `backup/boot_image.rs`.
    BootImage,
}

impl Own {
    /// `None` for anything else. Without an LSN the latest is meant.
    pub(super) fn parse(sql: &str) -> Option<Own> {
        let words: Vec<&str> = sql.trim().trim_end_matches(';').split_ascii_whitespace().collect();
        let (name, arguments) = words.split_first()?;
        let lsn = |argument: Option<&&str>| match argument {
            None => Some(Lsn::MAX),
            Some(text) => text.trim_matches('\'').parse().ok(),
        };
        match (name.to_ascii_uppercase().as_str(), arguments) {
            ("RELATIONS", [] | [_]) => Some(Own::Relations { lsn: lsn(arguments.first())? }),
            ("TRANSACTIONS", [page] | [page, _]) => {
                Some(Own::Transactions { page: page.parse().ok()?, lsn: lsn(arguments.get(1))? })
            }
            ("BOOT_IMAGE", []) => Some(Own::BootImage),
            _ => None,
        }
    }
}

impl Session<'_> {
    pub(super) fn identify_system(&mut self) -> Result<(), Report> {
        let timeline = self.service.timeline(&self.target.branch)?;
        let system = timeline.manifest.system_identifier.to_string();
        let (number, lsn) = match self.target.lsn {
            Some(lsn) => (timeline.postgres_timeline_before(lsn), lsn),
            None => (timeline.postgres_timeline(), timeline.ingested()),
        };
        let (number, lsn) = (number.to_string(), lsn.to_string());
        let row = [Some(system.as_bytes()), Some(number.as_bytes()), Some(lsn.as_bytes()), None];
        self.rows(&IdentifySystem::FIELDS, &[&row], "IDENTIFY_SYSTEM");
        Ok(())
    }

    pub(super) fn show(&mut self, name: &str) -> Result<(), Report> {
        let timeline = self.service.timeline(&self.target.branch)?;
        let manifest = &timeline.manifest;
        let on_off = |on: bool| if on { "on" } else { "off" }.to_owned();
        let value = match name.to_ascii_lowercase().as_str() {
            "server_version_num" => manifest.server_version.to_string(),
            "server_version" => ServerVersion(manifest.server_version).to_string(),
            "wal_segment_size" if manifest.wal_segment_bytes == 1 << 30 => "1GB".to_owned(),
            "wal_segment_size" => format!("{}MB", manifest.wal_segment_bytes >> 20),
            "block_size" | "wal_block_size" => PAGE_BYTES.to_string(),
            "data_checksums" => on_off(manifest.data_checksums),
            "data_directory_mode" => "0700".to_owned(),
            "integer_datetimes" => on_off(true),
            "in_hot_standby" => on_off(false),
            "howdah.branch" => self.target.branch.clone(),
            "howdah.lsn" => self.target.lsn.map_or_else(String::new, |lsn| lsn.to_string()),
            _ => {
                let message = format!("unrecognized configuration parameter \"{name}\"");
                return Err(Report::error(SqlState::UNDEFINED_OBJECT, message));
            }
        };
        let field = Field::text(name.as_bytes(), Oid::TEXT, -1);
        self.rows(&[field], &[&[Some(value.as_bytes())]], "SHOW");
        Ok(())
    }

    /// The history file of one of Postgres' timelines. The first has none.
    pub(super) async fn timeline_history(&mut self, id: u32) -> Result<(), Report> {
        let timeline = self.service.timeline(&self.target.branch)?;
        let Some(content) = promotion::read_history(&timeline, id).await else {
            let message = format!(
                "could not open file \"pg_wal/{id:08X}.history\": No such file or directory"
            );
            return Err(Report::error(SqlState::UNDEFINED_FILE, message));
        };
        let row = [Some(lineage::file_name(id).into_bytes()), Some(content)];
        let row = row.each_ref().map(|column| column.as_deref());
        self.rows(&TimelineHistory::FIELDS, &[&row], "TIMELINE_HISTORY");
        Ok(())
    }

    /// WAL is kept without slots: of any name there is none but those of this session.
    pub(super) fn read_slot(&mut self, name: &str) -> Result<(), Report> {
        let timeline = self.service.timeline(&self.target.branch)?;
        if self.slots.iter().any(|slot| slot == name) {
            let lsn = timeline.manifest.start.to_string();
            let number = timeline.postgres_timeline_at(timeline.manifest.start).to_string();
            let row = [Some(&b"physical"[..]), Some(lsn.as_bytes()), Some(number.as_bytes())];
            self.rows(&ReadSlot::FIELDS, &[&row], "READ_REPLICATION_SLOT");
        } else {
            self.rows(&ReadSlot::FIELDS, &[&[None; 3]], "READ_REPLICATION_SLOT");
        }
        Ok(())
    }

    /// A temporary physical slot is a name for this session: the WAL that it would keep is kept anyway.
    pub(super) fn create_slot(&mut self, create: &CreateSlot) -> Result<(), Report> {
        self.service.timeline(&self.target.branch)?;
        if !create.temporary || create.plugin.is_some() {
            let message = "the page service has temporary physical replication slots only";
            let report = Report::error(SqlState::FEATURE_NOT_SUPPORTED, message);
            return Err(report.with_hint("WAL is kept for the whole retention time, without slots"));
        }
        if self.slots.contains(&create.name) {
            let message = format!("replication slot \"{}\" already exists", create.name);
            return Err(Report::error(SqlState::DUPLICATE_OBJECT, message));
        }
        if self.slots.len() >= crate::limits::SLOTS_MAX {
            let message = "all replication slots of this connection are in use";
            return Err(Report::error(SqlState::OBJECT_IN_USE, message));
        }
        self.slots.push(create.name.clone());
        let row = [Some(create.name.as_bytes()), Some(&b"0/0"[..]), None, None];
        self.rows(&CreatedSlot::FIELDS, &[&row], "CREATE_REPLICATION_SLOT");
        Ok(())
    }

    pub(super) fn drop_slot(&mut self, name: &str) -> Result<(), Report> {
        self.check_slot(Some(name))?;
        self.slots.retain(|slot| slot != name);
        backend::write::command_complete(&mut self.out, "DROP_REPLICATION_SLOT");
        Ok(())
    }

    /// Whether a slot that a command names is there.
    pub(super) fn check_slot(&self, name: Option<&str>) -> Result<(), Report> {
        match name {
            Some(name) if !self.slots.iter().any(|slot| slot == name) => {
                let message = format!("replication slot \"{name}\" does not exist");
                let report = Report::error(SqlState::UNDEFINED_OBJECT, message);
                Err(report.with_hint("the page service keeps WAL without slots; name none"))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn relations(&mut self, lsn: Lsn) -> Result<(), Report> {
        let timeline = self.service.timeline(&self.target.branch)?;
        let lsn = timeline.lsn_for(lsn, Lsn::INVALID).await.map_err(|error| error.report())?;
        self.list_relations(&timeline, lsn);
        Ok(())
    }

    /// The same of an LSN that is known to be good.
    pub(super) fn list_relations(&mut self, timeline: &Timeline, lsn: Lsn) {
        let names = [&b"tablespace"[..], b"database", b"relation", b"fork", b"blocks"];
        let fields = names.map(|name| Field::text(name, Oid::INT8, 8));
        backend::write::row_description(&mut self.out, &fields);
        let forks = timeline.forks(lsn);
        for (tag, blocks) in &forks {
            let numbers =
                [tag.spcnode.0, tag.dbnode.0, tag.relnode.0, tag.fork.number().into(), *blocks];
            let texts = numbers.map(|number| number.to_string());
            let row = texts.each_ref().map(|text| Some(text.as_bytes()));
            backend::write::data_row(&mut self.out, &row);
        }
        backend::write::command_complete(&mut self.out, format!("RELATIONS {}", forks.len()));
    }

    pub(super) async fn transactions(&mut self, page: u32, lsn: Lsn) -> Result<(), Report> {
        let timeline = self.service.timeline(&self.target.branch)?;
        let read = async {
            let lsn = timeline.lsn_for(lsn, Lsn::INVALID).await?;
            timeline.transactions(page, lsn).await
        };
        let page = read.await.map_err(|error| error.report())?;
        let hex = page.map(|page| bytea(&page[..]));
        let field = Field::text(b"page", Oid::BYTEA, -1);
        let row = [hex.as_ref().map(|text| text.as_bytes())];
        self.rows(&[field], &[&row], "TRANSACTIONS");
        Ok(())
    }

    /// Appends one whole result.
    pub(super) fn rows(&mut self, fields: &[Field<'_>], rows: &[&[Option<&[u8]>]], tag: &str) {
        backend::write::row_description(&mut self.out, fields);
        rows.iter().for_each(|row| backend::write::data_row(&mut self.out, row));
        backend::write::command_complete(&mut self.out, tag);
    }
}

/// Bytes as Postgres shows a `bytea`: `\x` and hexadecimal digits.
fn bytea(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    let pairs = bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]);
    "\\x".chars().chain(pairs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_commands_take_an_lsn_or_none() {
        let at = Lsn(0x16B_3748);
        for (sql, own) in [
            ("RELATIONS", Some(Own::Relations { lsn: Lsn::MAX })),
            (" relations '0/16B3748';", Some(Own::Relations { lsn: at })),
            ("RELATIONS 1", None),
            ("RELATIONS 0/1 0/2", None),
            ("TRANSACTIONS 3", Some(Own::Transactions { page: 3, lsn: Lsn::MAX })),
            ("TRANSACTIONS 3 0/16B3748", Some(Own::Transactions { page: 3, lsn: at })),
            ("TRANSACTIONS", None),
            ("TRANSACTIONS -1", None),
            ("SELECT 1", None),
            ("", None),
        ] {
            assert_eq!(Own::parse(sql), own, "{sql}");
        }
    }
}
