//! Lines as they are written, and what happens when nobody reads them.

use std::io::Read;
use std::sync::Arc;

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tracing::subscriber::with_default;

use super::format::Timestamp;
use super::*;

/// Runs `work` with its log lines going into a pipe; what was written.
fn capture(format: Format, levels: &str, work: impl FnOnce()) -> String {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let layer =
        tracing_subscriber::fmt::layer().with_ansi(false).with_writer(Sink::new(Some(write)));
    let subscriber = tracing_subscriber::registry().with(parse_levels(levels).unwrap());
    match format {
        Format::Text => with_default(subscriber.with(layer.event_format(TextLine)), work),
        Format::Json => with_default(subscriber.with(layer.event_format(JsonLine)), work),
    }
    let mut text = String::new();
    std::fs::File::from(read).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_text_line_carries_node_level_target_message_and_fields() {
    let text = capture(Format::Text, "info", || {
        set_node(Some(3));
        let span = tracing::info_span!("client", id = 7);
        span.in_scope(|| tracing::warn!(target: "pooler", count = 2, user = "a b", "line\nbroken"));
        set_node(None);
        tracing::debug!(target: "pooler", "not at this level");
    });
    let (timestamp, rest) = text.split_once(" UTC ").unwrap();
    assert_eq!(timestamp.len(), "2026-11-21 03:10:11.123456".len());
    assert_eq!(rest, "[node 3] WARN  pooler: client{id=7}: line\\nbroken count=2 user=\"a b\"\n");
}

#[test]
fn a_json_line_is_one_object() {
    let text = capture(Format::Json, "debug", || {
        set_node(Some(0));
        tracing::debug!(target: "pooler", count = 2, ok = true, user = "a\nb", "hello");
        set_node(None);
    });
    assert_eq!(text.lines().count(), 1);
    let line: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(line["level"], "debug");
    assert_eq!(line["node"], 0);
    assert_eq!(line["target"], "pooler");
    assert_eq!(line["message"], "hello");
    assert_eq!(line["fields"], serde_json::json!({"count": 2, "ok": true, "user": "a\nb"}));
}

#[test]
fn levels_are_per_target() {
    let text = capture(Format::Text, "warn,pooler=debug", || {
        tracing::debug!(target: "pooler", "seen");
        tracing::info!(target: "other", "unseen");
        tracing::warn!(target: "other", "also seen");
    });
    assert_eq!(text.lines().count(), 2, "{text}");
}

#[test]
fn a_wrong_filter_is_refused_with_its_reason() {
    let error = check_levels("info,pooler=loud").unwrap_err();
    assert!(error.to_string().starts_with("invalid log level filter: "), "{error}");
    assert!(check_levels("info,pooler=debug").is_ok());
    assert_eq!("text".parse(), Ok(Format::Text));
    assert_eq!(
        "xml".parse::<Format>().unwrap_err().to_string(),
        "unknown log format \"xml\": expected \"text\" or \"json\""
    );
}

#[test]
fn a_pipe_nobody_reads_costs_lines_and_never_blocks() {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    fcntl_setpipe_size(&write, 4096).ok();
    let sink = Sink::new(Some(write));
    let line = [b'x'; 1000];
    for _ in 0..1000 {
        sink.write_line(&line);
    }
    // A reader arrives: it sees what fitted, then how much did not.
    let sink = Arc::new(sink);
    let mut reader = std::fs::File::from(read);
    let mut buffer = vec![0; 1 << 20];
    let fitted = reader.read(&mut buffer).unwrap();
    assert!(fitted < 100_000, "{fitted} bytes cannot fit into a pipe of that size");
    sink.write_line(b"after\n");
    let read = reader.read(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
    assert!(text.contains("log lines were dropped"), "{text}");
    assert!(text.ends_with("after\n"), "{text}");
}

#[test]
fn a_closed_reader_is_no_error() {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    drop(read);
    let sink = Sink::new(Some(write));
    sink.write_line(b"into the void\n");
    Sink::new(None).write_line(b"there is no standard error\n");
}

#[test]
fn timestamps_follow_the_calendar() {
    let at = |seconds: u64| Timestamp::from_unix_micros(seconds * 1_000_000 + 42).rfc3339();
    assert_eq!(at(0), "1970-01-01T00:00:00.000042Z");
    assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000042Z");
    assert_eq!(at(951_868_799), "2000-02-29T23:59:59.000042Z");
    assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000042Z");
    assert_eq!(at(1_735_689_599), "2024-12-31T23:59:59.000042Z");
}
