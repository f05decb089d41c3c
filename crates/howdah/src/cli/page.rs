//! `howdah page`: one block as of an LSN, as a summary of its header and a dump of its bytes, or into a file.

use std::fmt::Write;

use pageserver::client::{Client, ClientError};
use pg::datadir::relation::{Fork, RelNode};
use pg::lsn::Lsn;
use pg::page::PageBytes;
use pg::page::header;
use runtime::executor::block_on;
use runtime::io::Options;
use serde_json::json;

use super::PageOptions;
use crate::api::client::Api;
use crate::error::{Error, Result, While};
use crate::output;

pub(super) fn run(options: &PageOptions, api: &Api) -> Result<()> {
    let service = api.page_service()?;
    let tag = options.rel.fork(options.fork);
    let lsn = options.lsn.unwrap_or(Lsn::MAX);
    let login = api.credentials.login(&service, &options.branch)?;
    let fetch = async {
        let client = Client::log_in(&login).await?;
        client.into_stream().await?.pages(tag, &[options.block], lsn).await
    };
    let fetched = block_on(&Options::default(), fetch).or_fail("could not start an I/O loop")?;
    let bytes = fetched.map_err(refused)?;
    let page: &PageBytes = bytes.as_slice().try_into().or_fail("a page of another size")?;
    if let Some(path) = &options.out {
        let doing = format!("could not write \"{}\"", path.display());
        runtime::fs::blocking::write_atomic(path, &bytes).or_fail(doing)?;
    }
    let summary = Summary::of(page);
    if options.json {
        let mut value = summary.json();
        value["relation"] = json!(tag.to_string());
        value["block"] = json!(options.block);
        if options.out.is_none() {
            value["hex"] = json!(hex(&bytes));
        }
        output::json(&value);
    } else if options.out.is_none() {
        output::line(format!("{tag} block {}: {}", options.block, summary.text()));
        output::line(dump(&bytes));
    }
    Ok(())
}

pub(crate) fn refused(error: ClientError) -> Error {
    match error {
        ClientError::Refused { sqlstate, message, detail } => {
            let error = Error::new(format!("{message} ({sqlstate})"));
            if detail.is_empty() { error } else { error.detail(detail) }
        }
        ClientError::Connection(error) => {
            let hint = error.hint();
            let error = Error::new(error.to_string());
            hint.map_or(error.clone(), |hint| error.hint(hint))
        }
    }
}

/// `SPC/DB/REL`.
pub(crate) fn relation(text: &str) -> std::result::Result<RelNode, String> {
    let mut numbers = text.split('/').map(str::parse::<u32>);
    match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(tablespace)), Some(Ok(database)), Some(Ok(relation)), None) => {
            Ok(RelNode::new(tablespace, database, relation))
        }
        _ => {
            Err("expected tablespace/database/relation, three numbers like 1663/5/16385".to_owned())
        }
    }
}

/// `main`, `fsm`, `vm` or `init`.
pub(crate) fn fork(text: &str) -> std::result::Result<Fork, String> {
    let known = Fork::ALL.into_iter().find(|fork| fork.name() == text);
    known.ok_or_else(|| "expected main, fsm, vm or init".to_owned())
}

/// What the header of a page says.
struct Summary {
    lsn: Lsn,
    checksum: u16,
    flags: u16,
    lower: usize,
    upper: usize,
    special: usize,
    new: bool,
}

impl Summary {
    fn of(page: &PageBytes) -> Self {
        let field = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
        // PageHeaderData: pd_lsn 8 bytes, then checksum, flags, lower, upper, special (bufpage.h).
        Self {
            lsn: header::lsn(page),
            checksum: field(8),
            flags: field(10),
            lower: usize::from(field(12)),
            upper: usize::from(field(14)),
            special: usize::from(field(16)),
            new: header::is_new(page),
        }
    }

    /// Line pointers: 4 bytes each after the header's 24.
    fn items(&self) -> usize {
        self.lower.saturating_sub(24) / 4
    }

    fn text(&self) -> String {
        if self.new {
            return "new page, all zero".to_owned();
        }
        format!(
            "lsn {}, checksum {:#06x}, flags {:#06x}, lower {}, upper {}, special {}, {} line pointers, {} bytes free",
            self.lsn,
            self.checksum,
            self.flags,
            self.lower,
            self.upper,
            self.special,
            self.items(),
            self.upper.saturating_sub(self.lower)
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "new": self.new,
            "lsn": self.lsn.to_string(),
            "checksum": self.checksum,
            "flags": self.flags,
            "lower": self.lower,
            "upper": self.upper,
            "special": self.special,
            "line_pointers": self.items(),
        })
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// Sixteen bytes a line with their offset; lines like the one before are left out, as hexdump does.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut before: Option<&[u8]> = None;
    let mut skipping = false;
    for (number, line) in bytes.chunks(16).enumerate() {
        let last = (number + 1) * 16 >= bytes.len();
        if before == Some(line) && !last {
            if !skipping {
                text.push_str("*\n");
            }
            skipping = true;
            continue;
        }
        (before, skipping) = (Some(line), false);
        let _infallible = write!(text, "{:04x} ", number * 16);
        for byte in line {
            let _infallible = write!(text, " {byte:02x}");
        }
        let shown = line.iter().map(|byte| {
            if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }
        });
        text.push_str("  ");
        text.extend(shown);
        text.push('\n');
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relation_is_three_numbers() {
        assert_eq!(relation("1663/5/16385"), Ok(RelNode::new(1663, 5, 16385)));
        for text in ["", "1663/5", "1663/5/16385/1", "a/b/c", "1663/5/-1"] {
            assert!(relation(text).is_err(), "{text}");
        }
    }

    #[test]
    fn repeated_lines_of_a_dump_are_left_out() {
        let mut bytes = [0; 80];
        bytes[0] = b'A';
        let text = dump(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("0000  41 00") && lines[0].ends_with("A..............."));
        assert_eq!(lines[2], "*");
        assert!(lines[3].starts_with("0040"));
    }

    #[test]
    fn the_summary_reads_the_header() {
        let mut page = [0; 8192];
        assert_eq!(Summary::of(&page).text(), "new page, all zero");
        page[12..14].copy_from_slice(&32_u16.to_le_bytes());
        page[14..16].copy_from_slice(&8000_u16.to_le_bytes());
        page[16..18].copy_from_slice(&8192_u16.to_le_bytes());
        let summary = Summary::of(&page);
        assert_eq!((summary.items(), summary.upper, summary.special), (2, 8000, 8192));
    }
}
