//! From the configured cores to threads and processors.

use std::fmt;
use std::io;
use std::str::FromStr;

use super::affinity;
use crate::limits::CORES_MAX;

/// Which processors to use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Cores {
    /// All that this process may use.
    #[default]
    Auto,
    /// This many, the first ones that this process may use.
    Count(usize),
    /// These.
    List(Vec<usize>),
}

/// Neither `auto`, nor a number, nor a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidCores(String);

impl fmt::Display for InvalidCores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "invalid cores \"{}\": expected \"auto\", a number from 1 to {CORES_MAX}, or a list of processors like \"0,2,4-7\"",
            self.0
        )
    }
}

impl std::error::Error for InvalidCores {}

impl FromStr for Cores {
    type Err = InvalidCores;

    /// `auto`, a count (`4`), or processors (`0,2,4-7`; a single one is written `3-3`).
    fn from_str(text: &str) -> Result<Self, InvalidCores> {
        let invalid = || InvalidCores(text.to_owned());
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if !text.contains([',', '-']) {
            let count = text.parse().map_err(|_not_a_number| invalid())?;
            return match count {
                1..=CORES_MAX => Ok(Self::Count(count)),
                _ => Err(invalid()),
            };
        }
        let mut list = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: usize = first.trim().parse().map_err(|_not_a_number| invalid())?;
            let last: usize = last.trim().parse().map_err(|_not_a_number| invalid())?;
            if last < first || last - first >= CORES_MAX || list.len() >= CORES_MAX {
                return Err(invalid());
            }
            list.extend(first..=last);
        }
        Ok(Self::List(list))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(count) => write!(f, "{count}"),
            Self::List(list) => {
                let parts: Vec<String> = match list.as_slice() {
                    [one] => vec![format!("{one}-{one}")],
                    many => many.iter().map(ToString::to_string).collect(),
                };
                f.write_str(&parts.join(","))
            }
        }
    }
}

/// One entry per core to make: the processor it is pinned to, if any. Never empty.
pub(super) fn place(cores: &Cores, pin: bool) -> io::Result<Vec<Option<usize>>> {
    let allowed = affinity::allowed()?;
    let mut places: Vec<Option<usize>> = match cores {
        Cores::Auto => {
            // A container's share of processors can be smaller than the number it sees.
            let share = std::thread::available_parallelism()?.get();
            allowed.iter().copied().take(share).map(Some).collect()
        }
        Cores::Count(count) if *count <= allowed.len() => {
            allowed.iter().copied().take(*count).map(Some).collect()
        }
        Cores::Count(count) => {
            tracing::warn!(
                target: "runtime", cores = count, processors = allowed.len(),
                "more cores than processors: none is pinned"
            );
            vec![None; *count]
        }
        Cores::List(list) => list.iter().copied().map(Some).collect(),
    };
    if places.is_empty() || places.len() > CORES_MAX {
        let reason = format!("expected 1 to {CORES_MAX} cores, got {}", places.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    if !pin {
        places.fill(None);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_and_written() {
        for (text, expected) in [
            ("auto", Cores::Auto),
            ("4", Cores::Count(4)),
            ("0,2,4-6", Cores::List(vec![0, 2, 4, 5, 6])),
            ("3-3", Cores::List(vec![3])),
        ] {
            assert_eq!(text.parse(), Ok(expected.clone()));
            assert_eq!(expected.to_string().parse(), Ok(expected));
        }
        for text in ["", "0", "many", "1,", "5-2", "0-1000000000", "-1", "100000"] {
            assert!(text.parse::<Cores>().is_err(), "{text}");
        }
    }

    #[test]
    fn places_follow_the_processors() {
        let allowed = affinity::allowed().unwrap();
        assert_eq!(place(&Cores::Count(1), true).unwrap(), [allowed.first().copied()]);
        assert_eq!(place(&Cores::Count(1), false).unwrap(), [None]);
        let more = allowed.len() + 1;
        assert_eq!(place(&Cores::Count(more), true).unwrap(), vec![None; more]);
        assert_eq!(place(&Cores::List(vec![7, 9]), true).unwrap(), [Some(7), Some(9)]);
        assert!(place(&Cores::List(vec![]), true).is_err());
        assert!(!place(&Cores::Auto, true).unwrap().is_empty());
    }
}
