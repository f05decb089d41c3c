//! Names with an `@`: `shop@feature` is database `shop` of the target `feature`. Where a target's server is, only
//! the process around the pooler knows; this is how it is asked.

use pg::wire::error::Report;
use runtime::mailbox::Reply;

use crate::settings::ServerAddress;

/// Takes questions, from any core. To drop one is to say that nobody can answer.
pub type Resolver = dyn Fn(Resolve) + Send + Sync;

/// Where is this target's server? Whoever answers may start it first, and take as long as that takes.
#[derive(Debug)]
pub struct Resolve {
    /// What stands behind the first `@`.
    pub target: String,
    /// The address that was answered last does not let us in.
    pub is_unreachable: bool,
    /// What clients are told meanwhile, if the answer has to wait.
    pub notice: Reply<String>,
    /// An error is what the waiting clients are told.
    pub reply: Reply<Result<Place, Report>>,
}

/// Where a target's server is, and how to log in to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub server: ServerAddress,
    /// Start-up parameters of every server connection, besides those of the database's entry.
    pub parameters: Vec<(&'static str, String)>,
}

/// The database and the target of a name; `None`: it names no target.
#[must_use]
pub fn split(name: &str) -> Option<(&str, &str)> {
    name.split_once('@').filter(|(base, target)| !base.is_empty() && !target.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_at_sign_ends_the_database() {
        assert_eq!(split("shop@feature"), Some(("shop", "feature")));
        assert_eq!(split("shop@feature@0/16B3748"), Some(("shop", "feature@0/16B3748")));
        for none in ["shop", "shop@", "@feature", "@", ""] {
            assert_eq!(split(none), None, "{none}");
        }
    }
}
