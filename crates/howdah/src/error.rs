//! What goes wrong in the program, in PostgreSQL's form: a message, and apart from it detail and hint.

use std::fmt;

/// An operating error that ends a command. Messages are lower case and without a full stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub message: String,
    /// Facts: what was found where.
    pub detail: Option<String>,
    /// What the reader could do.
    pub hint: Option<String>,
}

/// The result of most functions of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), detail: None, hint: None }
    }

    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        for (label, text) in [("detail", &self.detail), ("hint", &self.hint)] {
            if let Some(text) = text {
                write!(formatter, "\n{label}: {text}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Adds what was being done to an error of the system or a library.
pub trait While<T> {
    /// `doing` reads like "could not read file \"x\"".
    fn or_fail(self, doing: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> While<T> for std::result::Result<T, E> {
    fn or_fail(self, doing: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Error::new(format!("{doing}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detail_and_hint_stand_apart() {
        let error =
            Error::new("could not start").detail("port 6432 is taken").hint("choose another");
        assert_eq!(
            error.to_string(),
            "could not start\ndetail: port 6432 is taken\nhint: choose another"
        );
    }
}
