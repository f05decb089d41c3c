//! Leases: moments that somebody wants to stay readable until some time, whatever the retention.
//!
//! A timeline's leases are one small file beside its layers, written atomically. One that has ended counts no more,
//! whatever the file says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pg::lsn::Lsn;
use runtime::{clock, fs};
use serde::{Deserialize, Serialize};
use storage::turn::Turn;

use crate::branches::BranchError;
use crate::error::Error;
use crate::limits::{LEASE_HOLDER_BYTES_MAX, LEASE_SECONDS_MAX, LEASES_MAX};
use crate::retention::Pin;
use crate::sealed;
use crate::timeline::Timeline;

/// Name of the file in a timeline's folder.
pub const FILE_NAME: &str = "leases";
const TITLE: &str = "howdah leases 1";

/// A moment that is kept readable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    #[serde(with = "as_text")]
    pub lsn: Lsn,
    /// Who wants it: several may want the same moment, and each ends its own.
    pub holder: String,
    /// Microseconds since the Unix epoch.
    pub until: i64,
}

/// Until when a lease holds, and what keeps its moment.
type Held = (i64, Option<Pin>);

/// The leases of one timeline.
#[derive(Default)]
pub struct Leases {
    path: PathBuf,
    /// By moment and holder.
    all: RefCell<BTreeMap<(Lsn, String), Held>>,
    /// The file is being written.
    changing: Turn,
}

impl Leases {
    /// Those in a timeline's folder. They pin nothing yet: [`Timeline::resume_leases`].
    pub(crate) async fn open(folder: &Path) -> Result<Leases, Error> {
        let path = folder.join(FILE_NAME);
        let bytes = match fs::read(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Leases { path, ..Leases::default() });
            }
            Err(source) => return Err(Error::file("read", &path, source)),
        };
        let read = sealed::open::<Vec<Lease>>(TITLE, &bytes)
            .ok_or_else(|| Error::Damaged(format!("file \"{}\" is damaged", path.display())))?;
        let all = read.into_iter().map(|lease| ((lease.lsn, lease.holder), (lease.until, None)));
        Ok(Leases { path, all: RefCell::new(all.collect()), changing: Turn::default() })
    }

    /// Those that have not ended.
    pub fn list(&self) -> Vec<Lease> {
        let now = clock::wall_micros();
        let all = self.all.borrow();
        let valid = all.iter().filter(|(_, (until, _))| *until > now);
        valid
            .map(|((lsn, holder), (until, _))| Lease {
                lsn: *lsn,
                holder: holder.clone(),
                until: *until,
            })
            .collect()
    }

    /// The file that has them.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        sealed::seal(TITLE, &self.list())
    }

    /// Lets go of those that have ended.
    pub(crate) fn end(&self) {
        let now = clock::wall_micros();
        self.all.borrow_mut().retain(|_, (until, _)| *until > now);
    }

    /// Writes the list as it is to be.
    async fn write(&self, leases: &[Lease]) -> Result<(), Error> {
        let written = fs::write_atomic(&self.path, sealed::seal(TITLE, leases)).await;
        written.map_err(|source| Error::file("write", &self.path, source))
    }
}

impl Timeline {
    /// Pins the moments of the leases that were read at the start.
    pub(crate) fn resume_leases(&self) {
        self.leases.end();
        for ((lsn, _), (_, pin)) in self.leases.all.borrow_mut().iter_mut() {
            *pin = Some(self.pin_at_start(*lsn));
        }
    }

    /// Keeps `lsn` readable until `until` (microseconds since the Unix epoch); durable when this returns. A lease of the
    /// same holder for the same moment is prolonged, never cut short.
    ///
    /// # Errors
    /// When the moment is not readable any more, or not here yet.
    pub async fn lease(&self, lsn: Lsn, holder: &str, until: i64) -> Result<Lease, BranchError> {
        let refused = |message: String, hint| Err(BranchError::Refused(message, hint));
        if holder.len() > LEASE_HOLDER_BYTES_MAX {
            let message = "the holder's name is too long".to_owned();
            return refused(message, "at most 64 bytes");
        }
        if until > clock::wall_micros().saturating_add(LEASE_SECONDS_MAX * 1_000_000) {
            return refused("a lease lasts a year at most".to_owned(), "renew it in time");
        }
        if !self.has_arrived(lsn) {
            let message = format!("LSN {lsn} has not arrived yet: {} has", self.ingested());
            return refused(message, "howdah timeline status shows what is kept");
        }
        let pin = match self.pin(lsn) {
            Ok(pin) => pin,
            Err(error) => {
                return refused(error.to_string(), "howdah timeline status shows what is kept");
            }
        };
        let _turn = self.leases.changing.take().await;
        let mut lease = Lease { lsn, holder: holder.to_owned(), until };
        let mut all = self.leases.list();
        let is_same = |known: &Lease| known.lsn == lsn && known.holder == holder;
        if let Some(known) = all.iter().position(is_same) {
            lease.until = until.max(all.remove(known).until);
        }
        if all.len() >= LEASES_MAX {
            let message = format!("branch \"{}\" has {LEASES_MAX} leases already", self.name);
            return refused(message, "end some");
        }
        all.push(lease.clone());
        self.leases.write(&all).await?;
        let held = (lease.until, Some(pin));
        self.leases.all.borrow_mut().insert((lsn, lease.holder.clone()), held);
        Ok(lease)
    }

    /// Ends a lease; durable when this returns.
    ///
    /// # Errors
    /// When there is none.
    pub async fn end_lease(&self, lsn: Lsn, holder: &str) -> Result<(), BranchError> {
        let _turn = self.leases.changing.take().await;
        let mut all = self.leases.list();
        let before = all.len();
        all.retain(|known| known.lsn != lsn || known.holder != holder);
        if all.len() == before {
            let message = format!("branch \"{}\" has no such lease for {lsn}", self.name);
            return Err(BranchError::Refused(message, "it may have ended by itself"));
        }
        self.leases.write(&all).await?;
        self.leases.all.borrow_mut().remove(&(lsn, holder.to_owned()));
        Ok(())
    }
}

/// An LSN as Postgres shows it.
mod as_text {
    use pg::lsn::Lsn;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(lsn: &Lsn, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(lsn)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Lsn, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(|_invalid| de::Error::custom(format!("\"{text}\" is no LSN")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_with_any_byte_changed_is_refused() {
        let lease = Lease { lsn: Lsn(7), holder: "compute".to_owned(), until: 99 };
        let bytes = sealed::seal(TITLE, std::slice::from_ref(&lease));
        assert_eq!(sealed::open(TITLE, &bytes), Some(vec![lease]));
        for place in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            assert_eq!(sealed::open::<Vec<Lease>>(TITLE, &changed), None, "byte {place}");
        }
    }
}
