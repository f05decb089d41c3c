//! Why there is no compute: an error with the SQLSTATE that a client of the pooler sees.

use pageserver::api::Problem;
use pg::sqlstate::SqlState;
use pg::wire::error::Report;

use crate::error::Error;

/// An error and its SQLSTATE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub sqlstate: SqlState,
    pub error: Error,
}

impl Refusal {
    pub(super) fn new(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { sqlstate, error: Error::new(message) }
    }

    pub(super) fn detail(self, detail: impl Into<String>) -> Self {
        Self { error: self.error.detail(detail), ..self }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        Self { error: self.error.hint(hint), ..self }
    }

    /// There is no such branch or moment.
    pub(super) fn unknown(message: impl Into<String>) -> Self {
        Self::new(SqlState::INVALID_CATALOG_NAME, message)
    }

    /// Not now.
    pub(super) fn not_now(message: impl Into<String>) -> Self {
        Self::new(SqlState::CANNOT_CONNECT_NOW, message)
    }

    /// What the page server says of a branch or moment that it cannot give.
    pub(super) fn of_page_server(problem: Problem) -> Self {
        let refusal = Self::unknown(problem.message);
        match problem.hint {
            Some(hint) => refusal.hint(hint),
            None => refusal,
        }
    }

    /// As the pooler tells its clients.
    pub(super) fn report(&self) -> Report {
        let mut report = Report::fatal(self.sqlstate, self.error.message.clone());
        if let Some(detail) = &self.error.detail {
            report = report.with_detail(detail.clone());
        }
        if let Some(hint) = &self.error.hint {
            report = report.with_hint(hint.clone());
        }
        report
    }
}
