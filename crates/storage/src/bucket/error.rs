//! What goes wrong with a bucket.

use std::fmt;
use std::io;
use std::path::Path;

/// A request to the store that failed for good, or for longer than we wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketError {
    /// What was being done: "read", "create".
    pub operation: &'static str,
    /// The object's name, or the local file's path.
    pub name: String,
    pub fault: Fault,
}

/// Why it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store did not answer, or said that it cannot just now. Trying later may help.
    Unavailable(String),
    /// The store refuses: credentials, permissions, a request that it does not know.
    Refused(String),
    Missing,
    Exists,
    /// More bytes, or more objects, than a sane one has.
    TooLarge,
    /// Fewer bytes came than the store said there are.
    Short,
    /// Another writer has taken over; its generation.
    Stale {
        generation: u64,
    },
    /// The bytes are not what was written.
    Damaged(&'static str),
    /// The store let more than one writer, or none, create one object.
    Unsafe {
        winners: usize,
        writers: usize,
    },
    /// A local file.
    Local(String),
}

/// Where the providers' machines ask for the credentials of their role: what is asked last, when there are no others.
const ROLE_ADDRESS: &str = "169.254.169.254";

impl BucketError {
    pub(crate) fn new(operation: &'static str, name: &str, fault: Fault) -> BucketError {
        BucketError { operation, name: name.to_owned(), fault }
    }

    pub(crate) fn local(path: &Path, error: io::Error) -> BucketError {
        BucketError::new("copy", &path.display().to_string(), Fault::Local(error.to_string()))
    }

    /// Whether trying later may help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self.fault, Fault::Unavailable(_) | Fault::Short)
    }

    /// What an operator can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match &self.fault {
            Fault::Unavailable(why) if why.contains(ROLE_ADDRESS) => Some(
                "there are no credentials in the environment, and this machine has no role that gives any",
            ),
            Fault::Unavailable(_) => Some("check that the object store runs and can be reached"),
            Fault::Refused(_) => {
                Some("check the credentials in the environment and what they are allowed to do")
            }
            Fault::Stale { .. } => {
                Some("another page server has taken this timeline over; stop one of the two")
            }
            Fault::Unsafe { .. } => {
                Some("use a store whose conditional writes (If-None-Match) are atomic")
            }
            _ => None,
        }
    }
}

impl fmt::Display for BucketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BucketError { operation, name, fault } = self;
        match fault {
            Fault::Unsafe { winners, writers } => write!(
                f,
                "the object store is not safe to use: of {writers} concurrent writers {winners} created \"{name}\", \
                 where one should have"
            ),
            Fault::Stale { generation } => {
                write!(
                    f,
                    "could not {operation} \"{name}\": generation {generation} has taken over"
                )
            }
            fault => write!(f, "could not {operation} \"{name}\": {fault}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Unavailable(why) | Fault::Refused(why) | Fault::Local(why) => f.write_str(why),
            Fault::Missing => f.write_str("there is no such object"),
            Fault::Exists => f.write_str("an object of that name exists"),
            Fault::TooLarge => f.write_str("it is too large"),
            Fault::Short => f.write_str("it ended early"),
            Fault::Stale { generation } => write!(f, "generation {generation} has taken over"),
            Fault::Damaged(what) => write!(f, "it is damaged: {what}"),
            Fault::Unsafe { .. } => f.write_str("its conditional writes are not atomic"),
        }
    }
}

impl std::error::Error for BucketError {}

/// One attempt that failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer in time, or the side thread is gone.
    Silence,
    Store(object_store::Error),
}

impl Failure {
    /// Whether the next attempt may go better.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Failure::Silence => true,
            Failure::Store(error) => matches!(
                error,
                object_store::Error::Generic { .. } | object_store::Error::JoinError { .. }
            ),
        }
    }

    pub(super) fn fault(&self) -> Fault {
        match self {
            Failure::Silence => Fault::Unavailable("it does not answer".to_owned()),
            Failure::Store(error) => match error {
                object_store::Error::NotFound { .. } => Fault::Missing,
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. } => Fault::Exists,
                error if self.is_transient() => Fault::Unavailable(one_line(error)),
                error => Fault::Refused(one_line(error)),
            },
        }
    }
}

/// The library's messages hold the answer's body, which may be a page of XML.
fn one_line(error: &object_store::Error) -> String {
    let text = error.to_string();
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(crate::limits::STORE_MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}...", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_credentials_is_told_so() {
        let hint = |why: &str| {
            let fault = Fault::Unavailable(why.to_owned());
            BucketError::new("list", "inventory", fault).hint().unwrap_or_default()
        };
        let role = "Error performing PUT http://169.254.169.254/latest/api/token: timed out";
        assert!(hint(role).starts_with("there are no credentials"), "{}", hint(role));
        assert!(hint("connection refused").starts_with("check that"));
    }
}
