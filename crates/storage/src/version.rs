//! Versions: numbers that only grow. What they count is the owner's business.

/// One moment of the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);
