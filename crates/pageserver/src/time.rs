//! Times as people write them (RFC 3339) and as Postgres counts them: microseconds since 2000-01-01 UTC.

/// Days from 0000-03-01 to 2000-01-01 in the proleptic Gregorian calendar.
const EPOCH_DAYS: i64 = 730_425;
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// `2026-11-19T10:00:00Z`, with a space instead of the T, a fraction, an offset such as `+01:00`; no offset means UTC.
pub fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let mut parts = date.split('-');
    let mut part = |digits: usize| {
        let text = parts.next()?;
        (text.len() == digits).then(|| digits_of(text))?
    };
    let (year, month, day) = (part(4)?, part(2)?, part(2)?);
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let (clock, offset) = split_offset(rest)?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let mut fields = clock.split(':').map(digits_of);
    let (hour, minute) = (fields.next()??, fields.next()??);
    let second = fields.next().unwrap_or(Some(0))?;
    let valid = (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60
        && fields.next().is_none();
    if !valid {
        return None;
    }
    let seconds = (hour * 60 + minute) * 60 + second - offset;
    Some(days(year, month, day) * DAY + seconds * SECOND + micros(fraction)?)
}

/// `2026-11-19T10:00:00.123456Z`.
pub fn format(micros: i64) -> String {
    let (days, rest) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let (year, month, day) = date(days);
    let (seconds, fraction) = (rest / SECOND, rest % SECOND);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:06}Z")
}

fn digits_of(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// The time of day, and its offset from UTC in seconds.
fn split_offset(text: &str) -> Option<(&str, i64)> {
    if let Some(clock) = text.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(place) = text.rfind(['+', '-']) else { return Some((text, 0)) };
    let (clock, offset) = text.split_at(place);
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let offset = offset.trim_start_matches(['+', '-']);
    let (hours, minutes) = offset.split_once(':').unwrap_or((offset, "0"));
    let (hours, minutes) = (digits_of(hours)?, digits_of(minutes)?);
    (hours < 24 && minutes < 60).then_some((clock, sign * (hours * 3600 + minutes * 60)))
}

/// A fraction of a second in microseconds.
fn micros(fraction: &str) -> Option<i64> {
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let six = fraction.get(..6).unwrap_or(fraction);
    let scale = 10_i64.pow(6 - u32::try_from(six.len()).ok()?);
    digits_of(six).map(|number| number * scale)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 2000-01-01. The year begins in March, so that the leap day is its last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leaps + (153 * month + 2) / 5 + day - 1 - EPOCH_DAYS
}

/// The inverse of [`days`].
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + EPOCH_DAYS;
    let (era, rest) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (rest - rest / 1460 + rest / 36_524 - rest / 146_096) / 365;
    let in_year = rest - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, micros) in [
            ("2000-01-01T00:00:00Z", Some(0)),
            ("2000-01-01 00:00:01", Some(SECOND)),
            ("2000-01-01T00:00:00.5Z", Some(SECOND / 2)),
            ("2000-01-01T01:00:00+01:00", Some(0)),
            ("1999-12-31T23:00:00-01", Some(0)),
            ("2000-03-01T00:00Z", Some(60 * DAY)),
            ("1970-01-01T00:00:00Z", Some(-946_684_800 * SECOND)),
            ("2026-02-29T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-01-01", None),
            ("2026-01-01T24:00:00Z", None),
            ("before the change", None),
            ("äöüäöüäöü", None),
            ("2000-01-01T00:00:00.12345ä", None),
            ("2000-01-01T00:00:00.1234567Z", Some(123_456)),
            ("0/16B3748", None),
        ] {
            assert_eq!(parse(text), micros, "{text}");
        }
    }

    proptest! {
        #[test]
        fn comes_back_from_its_text(micros in -30_000 * DAY..300_000 * DAY) {
            prop_assert_eq!(parse(&format(micros)), Some(micros));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _time = parse(&text);
        }
    }
}
