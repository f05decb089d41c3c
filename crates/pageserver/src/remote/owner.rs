//! Whose the object store is: a file here that names the claims of this directory, and the claim itself.
//!
//! The store's newest inventory bears a random number, its writer's. It belongs to this directory if the file here has that
//! number; a claim's number is in the file before the claim is made. So whoever has not written last finds that
//! out at the start, whatever crashed in between; a copy of a directory does, too.

use std::path::{Path, PathBuf};

use runtime::fs;
use serde::{Deserialize, Serialize};
use storage::bucket::{Claim, Nonce, Numbered, Published, Writer};

use super::failed;
use super::inventory::Inventory;
use crate::error::Error;
use crate::sealed;

/// Name of the file in the page server's directory.
pub(crate) const FILE_NAME: &str = "object-store";
const TITLE: &str = "howdah object store 1";

/// What is known here of our claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Owner {
    /// The inventory's.
    pub(super) history: String,
    /// Of claims that are ours.
    pub(super) writers: Vec<String>,
    /// Of the last claim that is known to have been made; 0: none.
    pub(super) generation: u64,
    /// The version from which this directory was recovered; before the first claim only.
    pub(super) recovered_from: Option<u64>,
}

/// What a claim gives.
pub(super) struct Claimed {
    pub(super) writer: Writer,
    pub(super) inventory: Inventory,
}

/// Claims the inventory for this directory.
///
/// # Errors
/// [`Error::Refused`] when it is another's.
pub(super) async fn claim(directory: &Path, document: &Numbered) -> Result<Claimed, Error> {
    let known = Owner::read(directory).await?;
    let newest = document.newest().await.map_err(|error| failed(&error))?;
    let mut owner = match (known, &newest) {
        (None, None) => Owner { history: random(), ..Owner::default() },
        (None, Some(_)) => {
            return refused(
                "the object store has the history of another page server",
                "recover from it with \"howdah recover\", or set pageserver.store to an empty place",
            );
        }
        (Some(owner), None) if owner.generation == 0 && owner.recovered_from.is_none() => owner,
        (Some(_), None) => {
            return refused(
                "the object store is empty, but layers of this directory may be in another one only",
                "set pageserver.store to where it was, or copy all objects to the new place",
            );
        }
        (Some(owner), Some(_)) => owner,
    };
    if let Some(newest) = &newest {
        owner.check(newest)?;
        owner.writers = vec![hex(&newest.writer)];
    }
    let mut nonce = Nonce::default();
    runtime::random::fill(&mut nonce);
    owner.writers.push(hex(&nonce));
    owner.write(directory).await?;
    let first = Inventory::empty(&owner.history).to_bytes(0);
    let claim = document.claim_as(nonce, &first, |newest| owner.check(newest).is_ok()).await;
    let (writer, published) = match claim.map_err(|error| failed(&error))? {
        Claim::Made(writer, published) => (writer, published),
        Claim::Declined(newest) => return Err(super::overtaken(newest.generation)),
    };
    let inventory = Inventory::from_bytes(&published.body).map_err(Error::Damaged)?;
    if inventory.head.history != owner.history {
        return refused("the object store has another history", "see pageserver.store");
    }
    let (writers, generation) = (vec![hex(&nonce)], writer.generation());
    Owner { writers, generation, recovered_from: None, ..owner }.write(directory).await?;
    Ok(Claimed { writer, inventory })
}

impl Owner {
    /// Whether we may follow upon this version.
    fn check(&self, newest: &Published) -> Result<(), Error> {
        if !self.writers.contains(&hex(&newest.writer)) {
            return Err(super::overtaken(newest.generation));
        }
        let own = self.writers.last().is_some_and(|own| *own == hex(&newest.writer));
        if self.recovered_from.is_some_and(|number| number != newest.number)
            && !(own && self.writers.len() > 1)
        {
            return refused(
                "the object store has changed since this directory was recovered from it: whoever wrote it still runs",
                "stop that page server, then recover into an empty directory",
            );
        }
        Ok(())
    }

    async fn read(directory: &Path) -> Result<Option<Owner>, Error> {
        let path = path(directory);
        let bytes = match fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::file("read", &path, source)),
        };
        let owner = sealed::open(TITLE, &bytes);
        owner.map(Some).ok_or_else(|| Error::Damaged(format!("\"{}\" is damaged", path.display())))
    }

    /// Makes it durable.
    pub(super) async fn write(&self, directory: &Path) -> Result<(), Error> {
        let path = path(directory);
        let written = fs::write_atomic(&path, sealed::seal(TITLE, self)).await;
        written.map_err(|source| Error::file("write", &path, source))
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join(FILE_NAME)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn random() -> String {
    let mut bytes = Nonce::default();
    runtime::random::fill(&mut bytes);
    hex(&bytes)
}

fn refused<T>(message: &str, hint: &'static str) -> Result<T, Error> {
    Err(Error::Refused { message: message.to_owned(), hint })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_any_byte_changed_is_refused() {
        let owner = Owner { history: random(), writers: vec![random()], ..Owner::default() };
        let bytes = sealed::seal(TITLE, &owner);
        assert_eq!(sealed::open(TITLE, &bytes), Some(owner));
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(sealed::open::<Owner>(TITLE, &changed), None, "byte {place}");
        }
    }
}
