//! The two shapes of a log line.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// `timestamp UTC [node n] LEVEL target: span{fields}: message key=value`
pub(super) struct TextLine;

impl<S, N> FormatEvent<S, N> for TextLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        write!(writer, "{} UTC ", Timestamp::now().spaced())?;
        if let Some(node) = super::node() {
            write!(writer, "[node {node}] ")?;
        }
        write!(writer, "{:<5} {}: ", metadata.level(), metadata.target())?;
        if let Some(scope) = context.event_scope() {
            for span in scope.from_root() {
                write!(writer, "{}", span.name())?;
                let extensions = span.extensions();
                if let Some(fields) = extensions.get::<FormattedFields<N>>()
                    && !fields.is_empty()
                {
                    write!(writer, "{{{fields}}}")?;
                }
                writer.write_str(": ")?;
            }
        }
        let mut fields = OneLine { message: String::new(), rest: String::new() };
        event.record(&mut fields);
        writer.write_str(&fields.message)?;
        writer.write_str(&fields.rest)?;
        writer.write_char('\n')
    }
}

/// Fields in order, the message first, line breaks escaped so that a line stays a line.
struct OneLine {
    message: String,
    rest: String,
}

impl OneLine {
    fn push(&mut self, field: &Field, value: &str) {
        let target = if field.name() == "message" {
            &mut self.message
        } else {
            self.rest.push(' ');
            self.rest.push_str(field.name());
            self.rest.push('=');
            &mut self.rest
        };
        for character in value.chars() {
            match character {
                '\n' => target.push_str("\\n"),
                '\r' => target.push_str("\\r"),
                control if control.is_control() && control != '\t' => {
                    target.extend(control.escape_default());
                }
                plain => target.push(plain),
            }
        }
    }
}

impl Visit for OneLine {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.push(field, value);
        } else {
            self.push(field, &format!("{value:?}"));
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, &format!("\"{value}\""));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, &format!("{value:?}"));
    }
}

/// One JSON object a line.
pub(super) struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut line = Map::new();
        line.insert("timestamp".into(), Timestamp::now().rfc3339().into());
        line.insert("level".into(), metadata.level().as_str().to_ascii_lowercase().into());
        if let Some(node) = super::node() {
            line.insert("node".into(), node.into());
        }
        line.insert("target".into(), metadata.target().into());
        let mut visitor = JsonFields { message: String::new(), fields: Map::new() };
        event.record(&mut visitor);
        line.insert("message".into(), visitor.message.into());
        if !visitor.fields.is_empty() {
            line.insert("fields".into(), visitor.fields.into());
        }
        if let Some(scope) = context.event_scope() {
            let spans: Vec<Value> = scope
                .from_root()
                .map(|span| {
                    let extensions = span.extensions();
                    let fields = extensions.get::<FormattedFields<N>>();
                    fields.map_or_else(
                        || span.name().into(),
                        |fields| format!("{}{{{fields}}}", span.name()).into(),
                    )
                })
                .collect();
            line.insert("spans".into(), spans.into());
        }
        writeln!(writer, "{}", Value::Object(line))
    }
}

struct JsonFields {
    message: String,
    fields: Map<String, Value>,
}

impl JsonFields {
    fn push(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", other) => self.message = other.to_string(),
            (name, value) => {
                self.fields.insert(name.to_owned(), value);
            }
        }
    }
}

impl Visit for JsonFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.push(field, value.to_string().into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, format!("{value:?}").into());
    }
}

/// A moment in UTC with microseconds, in the proleptic Gregorian calendar.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timestamp {
    micros: u64,
}

impl Timestamp {
    fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { micros: u64::try_from(since.as_micros()).unwrap_or(u64::MAX) }
    }

    #[cfg(test)]
    pub(super) fn from_unix_micros(micros: u64) -> Self {
        Self { micros }
    }

    fn spaced(self) -> String {
        self.render(' ')
    }

    pub(super) fn rfc3339(self) -> String {
        let mut text = self.render('T');
        text.push('Z');
        text
    }

    fn render(self, separator: char) -> String {
        let seconds = self.micros / 1_000_000;
        let (year, month, day) = civil(seconds / 86_400);
        let of_day = seconds % 86_400;
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        let micros = self.micros % 1_000_000;
        format!(
            "{year:04}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:{second:02}.{micros:06}"
        )
    }
}

/// Year, month and day of a number of days since 1970-01-01. The year is counted from March, so that the
/// leap day is its last day and month lengths repeat every five months (153 days).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days / 146_097; // 400 years
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}
