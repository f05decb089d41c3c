//! Durations, sizes and file modes as people write them: `"30s"`, `"5min"`, `"64kB"`, `"0777"`.
//!
//! Units are those of `postgresql.conf` (PostgreSQL documentation, section 20.1.1): `us ms s min h d`
//! and `B kB MB GB TB` with a factor of 1024.

use std::fmt;
use std::time::Duration;

use serde::Deserializer;
use serde::de::{Error, Visitor};

/// Reads `"1500ms"`, `"30s"`, `"5min"`, `"1.5h"`, `"2d"` or `"0"`.
///
/// # Errors
/// A sentence that fits after `key: `.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text.trim());
    let value: f64 = number.parse().map_err(|_error| bad_duration(text))?;
    let microseconds = match unit {
        "" if value == 0.0 => 0.0,
        "" => return Err(format!("\"{text}\" has no unit, write for example \"{text}s\"")),
        "us" => value,
        "ms" => value * 1e3,
        "s" => value * 1e6,
        "min" => value * 60e6,
        "h" => value * 3600e6,
        "d" => value * 86_400e6,
        _ => return Err(bad_duration(text)),
    };
    duration_from_micros(microseconds).ok_or_else(|| format!("\"{text}\" is out of range"))
}

/// Reads seconds as PgBouncer does: a decimal number without a unit (`"15"`, `"0.5"`).
///
/// # Errors
/// A sentence that fits after `key: `.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let value: f64 =
        text.trim().parse().map_err(|_error| format!("\"{text}\" is not a number of seconds"))?;
    duration_from_micros(value * 1e6).ok_or_else(|| format!("\"{text}\" is out of range"))
}

/// Reads `"64kB"`, `"1MB"`, or a bare number of bytes.
///
/// # Errors
/// A sentence that fits after `key: `.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text.trim());
    let bad =
        || format!("\"{text}\" is not a size, write for example \"64kB\" (B, kB, MB, GB, TB)");
    let value: u64 = number.parse().map_err(|_error| bad())?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => return Err(bad()),
    };
    value.checked_mul(factor).ok_or_else(|| format!("\"{text}\" is out of range"))
}

/// Reads a file mode in octal: `"0777"`, `"0o770"`, `"770"`.
///
/// # Errors
/// A sentence that fits after `key: `.
pub fn parse_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(format!("\"{text}\" is not a file mode, write for example \"0770\"")),
    }
}

/// Writes a duration so that [`parse_duration`] reads it back, in the largest unit that is exact.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let microseconds = duration.as_micros();
    for (unit, size) in
        [("d", 86_400_000_000), ("h", 3_600_000_000), ("min", 60_000_000), ("s", 1_000_000)]
    {
        if microseconds >= size && microseconds.is_multiple_of(size) {
            return format!("{}{unit}", microseconds / size);
        }
    }
    match microseconds {
        0 => "0".to_owned(),
        exact if exact.is_multiple_of(1000) => format!("{}ms", exact / 1000),
        other => format!("{other}us"),
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (number, unit.trim_start())
}

fn bad_duration(text: &str) -> String {
    format!("\"{text}\" is not a duration, write for example \"30s\" (us, ms, s, min, h, d)")
}

/// At most 68 years: everything above is a mistake, and 2^31 seconds fits every timer.
fn duration_from_micros(microseconds: f64) -> Option<Duration> {
    const SECONDS_MAX: f64 = 2_147_483_647.0;
    if !(0.0..=SECONDS_MAX * 1e6).contains(&microseconds) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked in the line above"
    )]
    Some(Duration::from_micros(microseconds.round() as u64))
}

/// Serde adapter: a duration as a string with a unit, or the number 0.
///
/// # Errors
/// Those of [`parse_duration`].
pub fn duration<'de, D: Deserializer<'de>>(input: D) -> Result<Duration, D::Error> {
    input.deserialize_any(Text { expected: "a duration such as \"30s\"", parse: parse_duration })
}

/// Serde adapter: like [`duration`], for a key that may be left out.
pub(super) fn optional_duration<'de, D: Deserializer<'de>>(
    input: D,
) -> Result<Option<Duration>, D::Error> {
    duration(input).map(Some)
}

/// Serde adapter: a size as a string with a unit, or a number of bytes.
pub(super) fn size<'de, D: Deserializer<'de>>(input: D) -> Result<u64, D::Error> {
    input.deserialize_any(Text { expected: "a size such as \"64kB\"", parse: parse_size })
}

/// Serde adapter: a file mode as an octal string.
pub(super) fn mode<'de, D: Deserializer<'de>>(input: D) -> Result<u32, D::Error> {
    input.deserialize_str(Text { expected: "a file mode such as \"0770\"", parse: parse_mode })
}

struct Text<T> {
    expected: &'static str,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        (self.parse)(&number.to_string()).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_the_units_of_postgres() {
        for (text, micros) in [
            ("0", 0),
            ("15us", 15),
            ("1500ms", 1_500_000),
            ("30s", 30_000_000),
            ("5min", 300_000_000),
            ("1.5h", 5_400_000_000),
            ("2d", 172_800_000_000),
            ("2 d", 172_800_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_micros(micros)), "{text}");
        }
    }

    #[test]
    fn a_bad_duration_says_what_would_be_good() {
        for (text, error) in [
            ("30", "\"30\" has no unit, write for example \"30s\""),
            ("30m", "\"30m\" is not a duration, write for example \"30s\" (us, ms, s, min, h, d)"),
            ("-1s", "\"-1s\" is not a duration, write for example \"30s\" (us, ms, s, min, h, d)"),
            ("", "\"\" is not a duration, write for example \"30s\" (us, ms, s, min, h, d)"),
            ("99999999999h", "\"99999999999h\" is out of range"),
        ] {
            assert_eq!(parse_duration(text), Err(error.to_owned()), "{text}");
        }
    }

    #[test]
    fn durations_survive_a_round_trip() {
        for micros in [0, 1, 999, 1_000, 1_500_000, 60_000_000, 90_000_000, 3_600_000_000] {
            let duration = Duration::from_micros(micros);
            assert_eq!(parse_duration(&format_duration(duration)), Ok(duration), "{micros}");
        }
    }

    #[test]
    fn seconds_of_an_ini_file_may_have_a_fraction() {
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_seconds("120"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_seconds("-1"), Err("\"-1\" is out of range".to_owned()));
        assert_eq!(parse_seconds("nan"), Err("\"nan\" is out of range".to_owned()));
        assert_eq!(parse_seconds("5s"), Err("\"5s\" is not a number of seconds".to_owned()));
    }

    #[test]
    fn sizes_count_in_powers_of_1024() {
        assert_eq!(parse_size("64kB"), Ok(65_536));
        assert_eq!(parse_size("1MB"), Ok(1 << 20));
        assert_eq!(parse_size("17"), Ok(17));
        assert!(parse_size("64KB").is_err(), "Postgres writes kB");
        assert_eq!(
            parse_size("99999999999999TB"),
            Err("\"99999999999999TB\" is out of range".to_owned())
        );
    }

    #[test]
    fn modes_are_octal_and_bounded() {
        assert_eq!(parse_mode("0777"), Ok(0o777));
        assert_eq!(parse_mode("0o640"), Ok(0o640));
        assert!(parse_mode("0888").is_err());
        assert!(parse_mode("1777").is_err(), "a socket has no sticky bit");
    }
}
