//! The least of a PostgreSQL client: logs in without a password, runs a simple query. Small enough to hold 10,000 of.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Protocol 3.0.
const PROTOCOL: u32 = 196_608;
/// Longest message that we expect in the benchmark.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
}

/// What came back for one statement.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Name and type (oid).
    pub(crate) columns: Vec<(String, u32)>,
    /// The first value of each row.
    pub(crate) names: Vec<String>,
    pub(crate) tag: String,
    /// SQLSTATE and message.
    pub(crate) error: Option<(String, String)>,
}

impl Client {
    /// Connects to a port of this machine and logs in where no password is asked for.
    pub(crate) fn open(port: u16, user: &str, database: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .map_err(|error| error.to_string())?;
        let mut client = Self { stream };
        let mut body = PROTOCOL.to_be_bytes().to_vec();
        for text in ["user", user, "database", database, ""] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        client.send(None, &body)?;
        client.until_ready()?;
        Ok(client)
    }

    /// Runs a statement and forgets its result.
    pub(crate) fn run(&mut self, sql: &str) -> Result<(), String> {
        self.query(sql).map(drop)
    }

    /// The first column of the first row.
    pub(crate) fn value(&mut self, sql: &str) -> Result<String, String> {
        self.query(sql)?.ok_or_else(|| format!("no row: {sql}"))
    }

    /// Runs a statement whatever comes of it.
    pub(crate) fn ask(&mut self, sql: &str) -> Result<Answer, String> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)?;
        let mut answer = Answer::default();
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'Z' => return Ok(answer),
                b'T' => answer.columns = columns(&body),
                b'C' => answer.tag = text(&body),
                b'D' => answer.names.extend(body.get(6..).map(|rest| first_value(&body, rest))),
                b'E' => answer.error = Some((field(&body, b'C'), field(&body, b'M'))),
                _ => {}
            }
        }
    }

    fn query(&mut self, sql: &str) -> Result<Option<String>, String> {
        let mut body = sql.as_bytes().to_vec();
        body.push(0);
        self.send(Some(b'Q'), &body)?;
        self.until_ready()
    }

    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<(), String> {
        let length = u32::try_from(body.len() + 4).map_err(|error| error.to_string())?;
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(body);
        self.stream.write_all(&message).map_err(|error| error.to_string())
    }

    /// Reads up to ReadyForQuery; returns the first value of the first DataRow.
    fn until_ready(&mut self) -> Result<Option<String>, String> {
        let mut value = None;
        loop {
            let (kind, body) = self.message()?;
            match kind {
                b'Z' => return Ok(value),
                b'E' => return Err(String::from_utf8_lossy(&body).replace('\0', " ")),
                b'R' if body.first_chunk() != Some(&[0; 4]) => {
                    return Err("a password is asked for".to_owned());
                }
                b'D' if value.is_none() => {
                    value = body.get(6..).map(|rest| first_value(&body, rest))
                }
                _ => {}
            }
        }
    }

    fn message(&mut self) -> Result<(u8, Vec<u8>), String> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head).map_err(|error| error.to_string())?;
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(format!("a message of {length} bytes"));
        }
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body).map_err(|error| error.to_string())?;
        Ok((kind, body))
    }
}

/// A DataRow is: count (2 bytes), then per column length (4 bytes) and bytes.
fn first_value(row: &[u8], rest: &[u8]) -> String {
    let length = row.get(2..6).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes)
        as usize;
    String::from_utf8_lossy(&rest[..length.min(rest.len())]).into_owned()
}

/// A RowDescription is: count (2 bytes), then per column its name and 18 bytes, of which 6 to 9 are the type.
fn columns(body: &[u8]) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    let mut rest = body.get(2..).unwrap_or_default();
    while let Some(end) = rest.iter().position(|&byte| byte == 0) {
        let Some(fixed) = rest.get(end + 1..end + 19) else { break };
        let kind = fixed.get(6..10).and_then(|bytes| bytes.try_into().ok());
        found.push((text(&rest[..end]), kind.map_or(0, u32::from_be_bytes)));
        rest = &rest[end + 19..];
    }
    found
}

/// A field of an ErrorResponse: each is its letter and a text.
fn field(body: &[u8], letter: u8) -> String {
    let mut fields = body.split(|&byte| byte == 0);
    fields
        .find(|field| field.first() == Some(&letter))
        .map_or_else(String::new, |field| text(&field[1..]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}
